"""The server's side: who takes part, what each is sent, and which replies count."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedfit.aggregation.base import check_finite
from fedfit.errors import UpdateRefused
from fedfit.models.adapters import check_same_form
from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord, Order, Origin, Plan, Reply, Update
from fedfit.rounds.federation import Federation


def choose_devices(eligible: Sequence[int], count: int, seed: int, round_number: int) -> list[int]:
    """The devices of a round, ascending: ``count`` drawn without replacement from those that hold data."""
    generator = np.random.default_rng(derive_seed(seed, "devices", round_number))
    return sorted(int(device) for device in generator.choice(eligible, size=count, replace=False))


class Exchange:
    """One round's exchange: a stream of usable updates, and a record of every device behind it.

    Without a ``plan`` nothing is charged, and every device trains the rank that the federation gives it.
    """

    def __init__(self, federation: Federation, round_number: int, plan: Plan | None) -> None:
        self._federation, self._round, self._plan = federation, round_number, plan
        self._sent: dict[int, tuple[int, Update]] = {}
        self.records: list[DeviceRecord] = []
        self.dispatch_seconds = 0.0

    def updates(self, state: object, devices: Sequence[int]) -> Iterator[Update]:
        """Usable updates as they come; what is refused is recorded and left out."""
        for device in devices:
            if self._left_out(device):
                self._record(Reply(self._round, device, None, None, 0.0), 0, {}, None)
        for reply in self._federation.link.exchange(
            self._orders(state, [device for device in devices if not self._left_out(device)])
        ):
            downlink_bytes, sent = self._sent.pop(reply.device)
            update, refusal = self._read(reply, sent)
            refusal = self._record(reply, downlink_bytes, update.metrics if update is not None else {}, refusal)
            del reply  # the packet, and below the update, before the next is made
            if update is not None and refusal is None:
                yield update
            del update

    def _left_out(self, device: int) -> bool:
        return self._plan is not None and self._plan.assignments[device].refusal is not None

    def _record(self, reply: Reply, downlink_bytes: int, metrics: Mapping[str, float], refusal: str | None) -> str | None:
        """Charges and records one device; returns why its update does not count, if it does not."""
        uplink_bytes = reply.packet.size_bytes if reply.packet is not None else 0
        cost, rank = None, None
        clock = self._federation.clock
        if clock is not None and self._plan is not None:
            cost, late = clock.charge(self._plan, self._round, reply.device, downlink_bytes, uplink_bytes)
            refusal, rank = refusal or late, self._plan.assignments[reply.device].rank
        self.records.append(
            DeviceRecord(
                round=self._round,
                device=reply.device,
                samples=self._federation.samples[reply.device],
                steps=int(metrics.get("steps", 0)),
                train_loss=metrics.get("train_loss"),
                uplink_bytes=uplink_bytes,
                downlink_bytes=downlink_bytes,
                seconds=reply.seconds,
                refused=refusal,
                rank=rank,
                cost=cost,
            )
        )
        return refusal

    def _orders(self, state: object, devices: Sequence[int]) -> Iterator[Order]:
        for device in devices:
            rank = self._federation.ranks[device] if self._plan is None else self._plan.assignments[device].rank
            seed = derive_seed(self._federation.seed, "dispatch", self._round, device)
            rule = self._federation.rule
            started = time.perf_counter()
            update = rule.dispatch(state, device, self._federation.size(rank), seed)
            self.dispatch_seconds += time.perf_counter() - started
            packet = self._federation.codec.encode(update, rule.gets(self._round))
            self._sent[device] = (packet.size_bytes, replace(update, origin=Origin(device, seed)))
            yield Order(self._round, device, packet, rule.trains(self._round))

    def _read(self, reply: Reply, sent: Update) -> tuple[Update | None, str | None]:
        if reply.packet is None:
            return None, reply.refusal or "the device sent nothing"
        rule = self._federation.rule
        try:
            update = self._federation.codec.decode(reply.packet, sent, rule.sends(self._round))
            check_same_form(update, rule.expected(sent, update))
            check_finite(update)
        except UpdateRefused as refusal:
            return None, str(refusal)
        weight = 1.0 if self._federation.uniform else update.weight
        return replace(update, weight=weight, origin=sent.origin), None
