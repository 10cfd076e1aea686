"""``fedfit plan`` with several ``--transport``: the rank that each codec buys, at the fleet's deadline and at others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedfit.errors import Fault, RecipeError
from fedfit.experiment.fleet_packets import packets_of
from fedfit.experiment.plan_fleet import PlanOptions, own_ranks_at, plan_fleet
from fedfit.fleet_settings import FleetFile
from fedfit.planning.packets import Packets

_DEADLINES = 33
_SPAN = 8.0
"""The curve goes from the fleet's deadline divided by this to as many times it."""


@dataclass(frozen=True)
class TransportRow:
    """The plan under one codec.

    ``devices`` can do rank 1; ``least``, ``mean`` and ``most`` are of their own highest ranks; ``rank`` is the common one,
    where there is one, and ``infeasible`` are those that cannot take part, each with its reason.
    """

    transport: str
    uplink_bits_per_parameter: float
    downlink_bits_per_parameter: float
    devices: int
    rank: int | None
    least: int
    mean: float
    most: int
    infeasible: tuple[dict[str, str], ...]


def compare_transports(file: FleetFile, options: PlanOptions, every: Sequence[str]) -> dict[str, Any]:
    """The plans of ``options`` under each codec, and the rank of each over the deadline.

    The rank of a curve is the common one, 0 where not every device takes part; with ``policy="per_device"`` it is the mean over
    all devices.

    Raises:
        RecipeError: as ``packets_of`` and ``plan_fleet`` do, and for options that only a single plan has.
    """
    _check_exact(options)
    deadlines = file.round.deadline_s * np.geomspace(1 / _SPAN, _SPAN, _DEADLINES)
    rows, curves, warnings = list[TransportRow](), dict[str, list[float]](), dict[str, None]()
    for words in dict.fromkeys(every):
        packets, chosen = packets_of(file, words), replace(options, transport=words)
        plan = plan_fleet(file, chosen)
        own = own_ranks_at(file, chosen, deadlines)
        curves[words] = (own.mean(axis=1) if options.policy == "per_device" else own.min(axis=1)).tolist()
        here = own_ranks_at(file, chosen, np.array([file.round.deadline_s]))[0]
        rows.append(_row(words, packets, plan, here[here > 0]))
        warnings |= dict.fromkeys(plan["warnings"])
    return {
        "deadline_s": file.round.deadline_s,
        "policy": options.policy,
        "warnings": list(warnings),
        "transports": [asdict(row) for row in rows],
        "curves": {"deadline_s": deadlines.tolist(), "rank": curves},
    }


def _row(words: str, packets: Packets, plan: dict[str, Any], own: np.ndarray) -> TransportRow:
    up, down = packets.uplink_bits_per_parameter, packets.downlink_bits_per_parameter
    out, able = tuple(plan["infeasible"]), len(own)
    if not able:
        return TransportRow(words, up, down, 0, None, 0, 0.0, 0, out)
    return TransportRow(words, up, down, able, plan["rank"], int(own.min()), float(own.mean()), int(own.max()), out)


def _check_exact(options: PlanOptions) -> None:
    """The curves are of the exact ranks on the devices' own sub-bands and layers."""
    given = {"--solver": options.solver != "exact", "--share-band-hz": options.share_band_hz is not None}
    given |= {"--choose-layers": options.choose_layers, "--for-rank": options.for_rank is not None}
    faults = [
        Fault(name, True, "is for a single plan; give one --transport, or leave it out")
        for name, is_so in given.items()
        if is_so
    ]
    if faults:
        raise RecipeError(faults, "the command")
