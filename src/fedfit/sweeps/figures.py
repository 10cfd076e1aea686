"""The figures of the paper on joint rank and frequency (section 3.3) as sweeps; this module runs nothing.

``FIGURES`` is the table of figures for ``fedfit reproduce``.
"""

from __future__ import annotations

from collections.abc import Callable

from fedfit.sweeps.bases import MEASURES, NOTES, SAMPLES_PER_DEVICE, SEEDS, base
from fedfit.sweeps.sweep import Axis, Point, Setting, Sweep

PLACEMENTS = {"all layers": "all", "last 3": "last:3", "middle 3": "middle:3", "first 3": "first:3"}
"""Fig. 2: name of a line → its adapted layers, in the paper's order from best to worst."""

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The ranks of Fig. 3."""

MAX_RANK = 32
"""The cap on the rank in Fig. 4 and 5: beyond it the paper sees overfitting (Fig. 3)."""

# Fig. 4 and 5. The paper prints neither the swept limits nor the fixed ones. These are for 1,000 samples a device and a model
# with matrices of 384 × 384, chosen so that the joint choice spans ranks from 1 or 2 to MAX_RANK.
DEADLINES_S = (5.0, 12.0, 30.0, 70.0, 160.0)
ENERGY_BUDGETS_J = (25.0, 300.0, 4000.0)
FIXED_ENERGY_BUDGET_J = 1000.0
"""Energy budget of every device in a round, in Fig. 4."""
FIXED_DEADLINE_S = 100.0
"""Deadline of a round, in Fig. 5."""

POLICIES = {"joint": "joint", "random frequency": "random_frequency"}
"""Name of a line → ``plan.policy``: the paper's proposal, then its baseline."""

_MATRIX_SIZE = {"smoke": 384, "small": 384, "paper": 768}


def load_ratio(scale: str) -> float:
    """Cycles of a device in a round, as a multiple of those at scale ``small``: proportional to samples times matrix area.

    Multiplying both ``T0`` and ``E0`` by this ratio keeps the greatest rank under eq. 1 and 3 unchanged, since
    ``E = Ω·(C|D|)³/T²``; the channel's part of both is small.
    """
    load = SAMPLES_PER_DEVICE[scale] * _MATRIX_SIZE[scale] ** 2
    return load / (SAMPLES_PER_DEVICE["small"] * _MATRIX_SIZE["small"] ** 2)


def fig2(scale: str) -> Sweep:
    """Accuracy over rounds, by the place of the adapted layers."""
    shown = list(PLACEMENTS) if scale != "smoke" else ["all layers", "last 3"]
    points = tuple(Point(line, None, (f'adapter.layers="{PLACEMENTS[line]}"',)) for line in shown)
    notes = (
        Setting("rank", ("adapter.rank",), None, "the same at all places"),
        Setting("placement", ("adapter.layers",), "all 12, last 3, any middle 3, first 3", "middle: as many below as above"),
    )
    return _sweep("fig2", "Accuracy by the place of the adapted layers", Axis("Round"), scale, "", points, notes)


def fig3(scale: str) -> Sweep:
    """Final accuracy over the rank."""
    shown = RANKS if scale != "smoke" else (1, 8)
    points = tuple(Point("last 3 layers", rank, (f"adapter.rank={rank}",)) for rank in shown)
    notes = (Setting("ranks", ("adapter.rank",), "1 to 32 and beyond", "the last rank is not printed"),)
    return _sweep("fig3", "Accuracy by rank", Axis("Rank r", log2=True), scale, "", points, notes)


def fig4(scale: str) -> Sweep:
    """Final accuracy over the deadline of a round, joint against random frequency."""
    limits = _limits(DEADLINES_S, scale)
    fixed = f"energy_budget_j = {FIXED_ENERGY_BUDGET_J * load_ratio(scale):g}"
    points = _planned_points("plan.deadline_s", limits)
    axis = Axis("Deadline of a round, T₀ (s)", log2=True)
    return _sweep("fig4", "Accuracy by deadline", axis, scale, _planned(fixed), points, _PLANNED_NOTES)


def fig5(scale: str) -> Sweep:
    """Final accuracy over the energy budget of a device, joint against random frequency."""
    limits = _limits(ENERGY_BUDGETS_J, scale)
    fixed = f"deadline_s = {FIXED_DEADLINE_S * load_ratio(scale):g}"
    points = _planned_points("plan.energy_budget_j", limits)
    axis = Axis("Energy budget of a device in a round, E₀ (J)", log2=True)
    return _sweep("fig5", "Accuracy by energy budget", axis, scale, _planned(fixed), points, _PLANNED_NOTES)


FIGURES: dict[str, Callable[[str], Sweep]] = {"fig2": fig2, "fig3": fig3, "fig4": fig4, "fig5": fig5}


def _sweep(
    name: str, title: str, axis: Axis, scale: str, more: str, points: tuple[Point, ...], notes: tuple[Setting, ...]
) -> Sweep:
    known = {note.what for note in notes}
    swept = {note.keys for note in notes if len(note.keys) == 1}
    common = tuple(note for note in NOTES if note.what not in known and note.keys not in swept)
    return Sweep(
        name,
        title,
        axis,
        base(scale) + more,
        points,
        (*notes, *common),
        scale,
        tuple(range(SEEDS[scale])),
        measures=MEASURES,
        command=f"fedfit reproduce {name}",
    )


def _limits(values: tuple[float, ...], scale: str) -> tuple[float, ...]:
    """The swept limits at ``scale``; the smoke test takes only the tightest and the loosest."""
    shown = values if scale != "smoke" else (values[0], values[-1])
    return tuple(value * load_ratio(scale) for value in shown)


def _planned_points(key: str, limits: tuple[float, ...]) -> tuple[Point, ...]:
    """The points of both lines over ``limits``, the values of ``key``.

    A round in which no device can keep its limits trains nothing; the run continues.
    """
    common = (f"adapter.rank={MAX_RANK}", "federation.max_failed_rounds=1000")
    return tuple(
        Point(line, limit, (f'plan.policy="{policy}"', f"{key}={limit:g}", *common))
        for line, policy in POLICIES.items()
        for limit in limits
    )


def _planned(fixed: str) -> str:
    """The text that a planned sweep adds to the recipe; ``fixed`` is the limit that is not swept."""
    return f"""
[plan]
count = "formula"
bits_per_parameter = 256
{fixed}
[fleet]
max_frequency_hz = 1e9
uplink_gain = 1e-3
downlink_gain = 1e-3
noise_w = 1e-6
[channel]
fading = "rayleigh"
"""


_PLANNED_NOTES = (
    Setting("deadline of a round T0, in s", ("plan.deadline_s",), None, "so that the joint ranks span 1 or 2 to the cap"),
    Setting("energy budget of a device in a round E0, in J", ("plan.energy_budget_j",), None, "chosen likewise"),
    Setting("highest rank", ("adapter.rank",), None, "where Fig. 3 of the paper has its best"),
    Setting("greatest CPU frequency f_max, in Hz", ("fleet.max_frequency_hz",)),
    Setting(
        "frequency of the baseline",
        ("plan.random_frequency_low",),
        "random in each round",
        "uniform, from this share of f_max to f_max",
    ),
    Setting("capacitance Ω", ("fleet.capacitance",), "Unif(0.2, 1)·1e-25"),
    Setting("uplink power P, in W", ("fleet.transmit_power_w",), "Unif(0.2, 1)·0.1"),
    Setting("downlink power, in W", ("fleet.downlink_power_w",)),
    Setting(
        "bandwidth B, in Hz", ("fleet.uplink_bandwidth_hz", "fleet.downlink_bandwidth_hz"), "1 MHz; of which link, not said"
    ),
    Setting("fading", ("channel.fading", "channel.reciprocal"), "Rayleigh, drawn in each round"),
    Setting(
        "mean power gain of the channel",
        ("fleet.uplink_gain", "fleet.downlink_gain"),
        "Rayleigh coefficient 1e-3",
        "only h·P/N0 counts, and N0 is not printed",
    ),
    Setting("noise power N0, in W", ("fleet.noise_w",)),
    Setting("circuit energy ξ, in J", ("fleet.circuit_energy_j",)),
    Setting("bits a parameter Q", ("plan.bits_per_parameter",), "256"),
    Setting("parameters that are sent", ("plan.count",), "eq. 5, corrected to r·(d + k)·Â·l", "without the head, as there"),
    Setting("cycles of a sample", ("plan.compute",), "eq. 2"),
    Setting("rounds in a row that may teach nothing", ("federation.max_failed_rounds",), None, "a run never stops for it"),
)
