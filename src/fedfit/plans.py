"""A round's plan, and the round's cost for each device. Frozen values, without behaviour beyond arithmetic on themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np

Amount = TypeVar("Amount", float, "np.ndarray")
"""Of one device, or an array over a fleet."""


@dataclass(frozen=True)
class Charge(Generic[Amount]):
    """Time and energy of a round by their parts: equations 1, 3, 4, 8, 9 and ξ of the system model."""

    compute_s: Amount
    uplink_s: Amount
    downlink_s: Amount
    compute_j: Amount
    uplink_j: Amount
    circuit_j: Amount

    @property
    def latency_s(self) -> Amount:
        """Equation 11."""
        latency_s: Amount = self.compute_s + self.uplink_s + self.downlink_s
        return latency_s

    @property
    def energy_j(self) -> Amount:
        """Equation 12."""
        energy_j: Amount = self.compute_j + self.uplink_j + self.circuit_j
        return energy_j


@dataclass(frozen=True)
class LinkState:
    """One device's radio in one round: power gains, the rates they give (equations 6, 10), and which server is on the line."""

    uplink_gain: float
    downlink_gain: float
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    server: int = 0


@dataclass(frozen=True)
class Assignment:
    """What a plan asks of one device in one round.

    ``refusal`` says why it cannot take part, or is ``None``; a device that cannot has rank 0 and frequency 0. ``binding`` is
    what stops the device's own next rank: ``deadline``, ``energy``, ``frequency`` or ``max_rank``.
    """

    rank: int
    frequency_hz: float
    binding: str
    link: LinkState
    refusal: str | None = None


@dataclass(frozen=True)
class Plan:
    """A round's plan: ``assignments`` by device, and the common ``rank``, ``None`` where devices have their own."""

    rank: int | None
    assignments: Mapping[int, Assignment]


@dataclass(frozen=True)
class DeviceCost:
    """The cost of one round for one device: by the ``formula`` (equation 5 for the bits), and by the bytes really ``sent``.

    ``spent_j`` is what the device lost: the energy of the charge that decides, or less where budget or battery ended first.
    """

    frequency_hz: float
    binding: str
    link: LinkState
    formula: Charge[float]
    sent: Charge[float]
    spent_j: float
