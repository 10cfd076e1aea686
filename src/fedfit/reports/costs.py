"""The system model's charges in a run's records: seconds, joules, ranks, and the limits that bind the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfit.plans import Charge
from fedfit.reports.files import CHARGE
from fedfit.reports.read import RunData, number

REFUSED = "refused"
"""Replaces the binding limit of a device that does not count: its rank is 0, or its update was refused."""
CHARGE_WORDS = {"sent": "all bytes sent", "formula": "the parameters of eq. 5"}
"""Charge → the traffic that it counts, for titles and captions."""


@dataclass(frozen=True)
class DeviceRank:
    """The rank of one device in one round; ``word`` is the limit that stops the next higher rank."""

    round: int
    device: int
    rank: int
    word: str


def total_simulated(run: RunData, key: str) -> float | None:
    """``simulated_s`` or ``simulated_j`` summed over all finished rounds; ``None`` if no round was charged."""
    values = [row.get(key) for row in run.rounds if row["round"] > 0]
    return None if all(value is None for value in values) else float(sum(value for value in values if value is not None))


def since_the_start(run: RunData, key: str) -> list[float] | None:
    """Running total of ``simulated_s`` or ``simulated_j``, one value per round; round 0 is at 0.

    ``None`` if no round was charged. A single round without a charge adds nothing.
    """
    if total_simulated(run, key) is None:
        return None
    return list(accumulate((row.get(key) or 0.0) if row["round"] > 0 else 0.0 for row in run.rounds))


def device_ranks(run: RunData) -> list[DeviceRank]:
    """One entry for each device with a rank, in each finished round."""
    return [
        DeviceRank(row["round"], row["device"], row["rank"], _binding_word(row))
        for row in run.finished_devices()
        if row.get("rank") is not None
    ]


def rank_texts(run: RunData) -> dict[int, str]:
    """Round → its common rank, or the range ``'4–32'`` of the devices' own ranks; devices of rank 0 do not count."""
    texts = {row["round"]: str(row["rank"]) for row in run.rounds if row.get("rank") is not None}
    spread: dict[int, list[int]] = {}
    for entry in device_ranks(run):
        if entry.rank > 0:
            spread.setdefault(entry.round, []).append(entry.rank)
    own = {count: f"{min(ranks)}–{max(ranks)}" if min(ranks) < max(ranks) else str(ranks[0]) for count, ranks in spread.items()}
    return own | texts


def ledger(run: RunData) -> tuple[list[int], npt.NDArray[np.float64]] | None:
    """Device numbers, and ``(devices, 6)`` seconds and joules in the order of ``CHARGE``, summed over the finished rounds.

    Sums the deciding charge; ``None`` if no device was charged. A value that is not finite adds nothing.
    """
    summed: dict[int, npt.NDArray[np.float64]] = {}
    for row in run.finished_devices():
        if row.get("cost") is not None:
            charge = row["cost"][run.deciding_charge]
            values = np.nan_to_num([number(charge[key]) for key in CHARGE])
            summed[row["device"]] = summed.get(row["device"], np.zeros(len(CHARGE))) + values
    if not summed:
        return None
    devices = sorted(summed)
    return devices, np.array([summed[device] for device in devices])


def latency_s(charge: Mapping[str, Any]) -> float:
    """Latency in seconds (equation 11); NaN if a part is not finite."""
    return _charge(charge).latency_s


def energy_j(charge: Mapping[str, Any]) -> float:
    """Energy in joules (equation 12); NaN if a part is not finite."""
    return _charge(charge).energy_j


def _charge(values: Mapping[str, Any]) -> Charge[float]:
    return Charge(**{key: number(values[key]) for key in CHARGE})


def _binding_word(row: Mapping[str, Any]) -> str:
    if row["rank"] == 0 or row.get("refused"):
        return REFUSED
    return "none" if row.get("cost") is None else str(row["cost"]["binding"])
