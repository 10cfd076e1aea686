"""The contract of radio, battery and clock: a plan before a round, and a charge after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from fedfit.plans import DeviceCost, Plan
from fedfit.records import DeviceRecord


class Clock(Protocol):
    """Plans a round and charges its devices by a system model."""

    def plan(self, round_number: int, devices: Sequence[int]) -> Plan:
        """Rank, frequency and link of each of ``devices``, or why it cannot take part."""

    def charge(
        self, plan: Plan, round_number: int, device: int, downlink_bytes: int, uplink_bytes: int
    ) -> tuple[DeviceCost, str | None]:
        """What the round cost ``device``, and why its update must not count: too late, or out of energy."""

    def duration_s(self, records: Iterable[DeviceRecord]) -> float:
        """How long a round with these ``records`` took."""
