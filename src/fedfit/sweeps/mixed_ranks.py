"""``fedfit reproduce mixed-ranks``: the rules for devices of unequal ranks, beside lower and upper bounds.

Follows the table of FSLoRA (arXiv 2501.19389): 20 devices with ranks of 1/8, 1/4 and 1/2 of the global 64. This module runs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.sweep import Setting

NAME = "mixed-ranks"
SCALES = ("smoke", "small")


@dataclass(frozen=True)
class Size:
    """The size of the comparison at one scale. ``test_samples`` and ``rounds`` are by data set."""

    sources: tuple[str, ...]
    alphas: tuple[float, ...]
    rates: tuple[float, ...]
    rounds: dict[str, int]
    samples: int
    test_samples: dict[str, int]
    devices: int
    devices_per_round: int
    seeds: int


ROUNDS = {"ag_news": 8, "sst2": 12}
"""Rounds by data set; the two classes of SST-2, spread unequally over the devices, need more."""
LOCAL_STEPS = 8
SAMPLES = 3000
"""Training samples of all devices together: 150 a device on average."""
TEST_SAMPLES = {"ag_news": 1000, "sst2": 872}
"""Test samples by data set; SST-2 is tested on its development set, which has only 872."""
RATES = (5e-3, 1e-2, 2e-2)
ALPHAS = (0.1, 0.5)
SEARCH_ALPHA = 0.5
SEARCH_SEED = 1000
TARGETS = {"ag_news": 0.80, "sst2": 0.70, "pydocs": 0.50}
"""Target accuracy by data set; seconds and joules count until it is reached."""

SIZES = {
    "smoke": Size(("pydocs",), (0.5,), (1e-3, 3e-3), {"pydocs": 2}, 200, {"pydocs": 100}, 4, 2, 1),
    "small": Size(("ag_news", "sst2"), ALPHAS, RATES, ROUNDS, SAMPLES, TEST_SAMPLES, 20, 10, 3),
}

BATCH_SIZE = 16
RANK = 64
RANKS = (8, 16, 32)
"""1/8, 1/4 and 1/2 of ``RANK``; each device draws one of them, by the seed alone."""

# A fleet of phones: eq. 2 and 3 charge 0.5 to 12 W at these frequencies. No deadline and no budget binds, so every device runs
# at its highest frequency, and only ranks and bytes make a difference in time and energy.
FLEET = (
    'plan.policy="fixed"',
    'plan.count="sent"',
    'plan.frequency="fastest"',
    "plan.energy_budget_j=1e9",
    "fleet.max_frequency_hz={uniform=[2e8, 5e8]}",
    "fleet.uplink_gain=1e-3",
    "fleet.downlink_gain=1e-3",
    "fleet.noise_w=1e-6",
    'channel.fading="rayleigh"',
)

FSLORA, HETLORA, FLEXLORA, STACKING = "FSLoRA", "HetLoRA", "FlexLoRA", "FLoRA (stacking)"
LOWEST, FULL = "FedAvg, lowest rank", "FedAvg, full rank"
LOCAL, CENTRAL = "local only", "centralised"

MIXED = {FSLORA: "fslora", HETLORA: "hetlora", FLEXLORA: "flexlora", STACKING: "flora"}
"""Name of a line → ``federation.rule``, for the methods whose devices have their own ranks."""


def mixed_ranks(scale: str) -> Comparison:
    """The comparison at ``scale``, which must be one of ``SCALES``."""
    size = SIZES[scale]
    return Comparison(
        name=NAME,
        title="Devices of unequal ranks: the rules compared",
        scale=scale,
        base=_base(size),
        methods=methods(size),
        cases=tuple(Case(source, alpha) for source in size.sources for alpha in size.alphas),
        rates=size.rates,
        search_alpha=SEARCH_ALPHA,
        search_seed=SEARCH_SEED,
        targets=TARGETS,
        claims=CLAIMS,
        notes=NOTES,
        source_overrides={
            source: (f"data.test_samples={size.test_samples[source]}", f"federation.rounds={size.rounds[source]}")
            for source in size.sources
        },
        seeds=tuple(range(size.seeds)),
    )


def methods(size: Size) -> tuple[Method, ...]:
    """The methods in the order of the table. All train at the same scale s = 1: α always equals the global rank."""
    ranks = f"federation.ranks={{choice={list(RANKS)}}}"
    lowest = (f"adapter.rank={RANKS[0]}", f"adapter.alpha={RANKS[0]}")
    return (
        *(Method(name, (f'federation.rule="{rule}"', ranks, *FLEET)) for name, rule in MIXED.items()),
        Method(LOWEST, ('federation.rule="fedavg"', *lowest, *FLEET)),
        Method(FULL, ('federation.rule="fedavg"', *FLEET)),
        Method(LOCAL, ('federation.rule="local_only"', ranks, *FLEET), sends=False),
        Method(CENTRAL, _central(size), sends=False),
    )


def _central(size: Size) -> tuple[str, ...]:
    """Overrides for one device with all data, at full rank. Its round has as many steps as those of all devices together."""
    steps = size.devices_per_round * LOCAL_STEPS
    return (
        'federation.rule="fedavg"',
        "federation.devices=1",
        "federation.devices_per_round=1",
        'partition.kind="iid"',
        f"training.local_steps={steps}",
    )


def _base(size: Size) -> str:
    return f"""
[data]
max_tokens = 24
train_samples = {size.samples}
[partition]
kind = "dirichlet"
[model]
name = "minilm"
[adapter]
rank = {RANK}
alpha = {RANK}
scaling = "constant"
layers = "last:2"
targets = ["query", "value"]
[federation]
devices = {size.devices}
devices_per_round = {size.devices_per_round}
weighting = "samples"
max_failed_rounds = 1000
[training]
local_steps = {LOCAL_STEPS}
schedule = "linear"
batch_size = {BATCH_SIZE}
"""


def pairs(higher: str | tuple[str, ...], lower: str | tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """All pairs ``(higher, lower)`` of the given methods."""
    highs, lows = ((names,) if isinstance(names, str) else names for names in (higher, lower))
    return tuple((high, low) for high in highs for low in lows)


_FSLORA_TABLE = "FSLoRA's table, 20 devices, mean over GLUE: FSLoRA 83.3, {} %"
FEDERATED = (*MIXED, LOWEST, FULL)

CLAIMS = (
    Claim("FSLoRA above HetLoRA", _FSLORA_TABLE.format("HetLoRA 79.6"), pairs(FSLORA, HETLORA)),
    Claim("FSLoRA above FlexLoRA", _FSLORA_TABLE.format("FlexLoRA 78.9"), pairs(FSLORA, FLEXLORA)),
    Claim("FSLoRA above stacking", _FSLORA_TABLE.format("stacking 78.9"), pairs(FSLORA, STACKING)),
    Claim("mixed ranks above FedAvg at the lowest rank", "the reason for mixed ranks at all", pairs(tuple(MIXED), LOWEST)),
    Claim("FedAvg at full rank above mixed ranks", "every device as strong as the best: a ceiling", pairs(FULL, tuple(MIXED))),
    Claim("federated above local only", "the reason to federate at all", pairs(FEDERATED, LOCAL)),
    Claim("centralised above all", "all data in one place: a ceiling", pairs(CENTRAL, (*FEDERATED, LOCAL))),
)

NOTES = (
    Setting("devices", ("federation.devices",), "20"),
    Setting(
        "ranks of the devices",
        ("federation.ranks",),
        "1/8, 1/4 and 1/2 of the global rank 64",
        "drawn by the seed alone, so the same for all methods; unset is `adapter.rank` for all",
    ),
    Setting("global rank", ("adapter.rank",), "64", "8 is FedAvg at the lowest rank"),
    Setting("rule", ("federation.rule",)),
    Setting(
        "scale s",
        ("adapter.alpha", "adapter.scaling"),
        None,
        "α over the global rank, 1 for every method and rank; FSLoRA's devices train at its own r/k times that",
    ),
    Setting("model", ("model.name",), None, "MiniLM: 6 layers, width 384"),
    Setting("data", ("data.source",)),
    Setting("spread over the devices", ("partition.kind", "partition.alpha"), None, "`iid` is the one device of centralised"),
    Setting("training samples, all devices", ("data.train_samples",)),
    Setting("test samples", ("data.test_samples",), None, "of SST-2 the whole development set"),
    Setting("devices drawn in a round", ("federation.devices_per_round",)),
    Setting("rounds", ("federation.rounds",)),
    Setting("steps of a device in a round", ("training.local_steps",), None, "centralised: those of ten devices"),
    Setting("weights", ("federation.weighting",), None, "by samples for all; HetLoRA times the norm of the product"),
    Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule", "training.batch_size")),
    Setting("learning rate", ("training.learning_rate",), None, "searched for each method and data set; see table.md"),
    Setting("classification head", ("adapter.head",), None, "new, trained and sent beside the factors by every method"),
    Setting("adapted", ("adapter.layers", "adapter.targets")),
    Setting("length of a text, in tokens", ("data.max_tokens",)),
    Setting(
        "plan",
        ("plan.policy", "plan.deadline_s", "plan.count", "plan.frequency"),
        None,
        "charged, and never binding; centralised has none",
    ),
    Setting(
        "CPU frequency, in Hz",
        ("fleet.max_frequency_hz",),
        None,
        "each device runs at its own; 2e9 is a default that nothing reads",
    ),
    Setting("energy budget of a device in a round, in J", ("plan.energy_budget_j",), None, "none in effect"),
    Setting(
        "gain and noise",
        ("fleet.uplink_gain", "fleet.downlink_gain", "fleet.noise_w", "channel.fading"),
        None,
        "the second values are defaults that centralised does not read",
    ),
)
"""The settings to report; ``paper`` is FSLoRA's value."""
