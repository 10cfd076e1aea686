"""The server's side: who takes part, what each is sent, and which replies count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedfit.aggregation.base import Rule, check_finite
from fedfit.codecs.base import Codec
from fedfit.errors import UpdateRefused
from fedfit.models.adapters import check_same_form
from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord, Order, Reply, Update
from fedfit.rounds.link import Link


def choose_devices(eligible: Sequence[int], count: int, seed: int, round_number: int) -> list[int]:
    """The devices of a round, ascending: ``count`` drawn without replacement from those that hold data."""
    generator = np.random.default_rng(derive_seed(seed, "devices", round_number))
    return sorted(int(device) for device in generator.choice(eligible, size=count, replace=False))


class Exchange:
    """One round's exchange: a stream of usable updates, and a record of every device behind it.

    Args:
        samples: number of samples by device.
    """

    def __init__(self, rule: Rule, codec: Codec, link: Link, seed: int, round_number: int, samples: Sequence[int]) -> None:
        self._rule, self._codec, self._link = rule, codec, link
        self._seed, self._round, self._samples = seed, round_number, samples
        self._sent: dict[int, tuple[int, Update]] = {}
        self.records: list[DeviceRecord] = []

    def updates(self, state: object, devices: Sequence[int]) -> Iterator[Update]:
        """Usable updates as they come; what is refused is recorded and left out."""
        for reply in self._link.exchange(self._orders(state, devices)):
            downlink_bytes, sent = self._sent.pop(reply.device)
            update, refusal = self._read(reply, sent)
            metrics = update.metrics if update is not None else {}
            self.records.append(
                DeviceRecord(
                    round=self._round,
                    device=reply.device,
                    samples=self._samples[reply.device],
                    steps=int(metrics.get("steps", 0)),
                    train_loss=metrics.get("train_loss"),
                    uplink_bytes=reply.packet.size_bytes if reply.packet is not None else 0,
                    downlink_bytes=downlink_bytes,
                    seconds=reply.seconds,
                    refused=refusal,
                )
            )
            del reply  # the packet, and below the update, before the next is made
            if update is not None:
                yield update
            del update

    def _orders(self, state: object, devices: Sequence[int]) -> Iterator[Order]:
        for device in devices:
            update = self._rule.dispatch(state, device, derive_seed(self._seed, "dispatch", self._round, device))
            packet = self._codec.encode(update)
            self._sent[device] = (packet.size_bytes, update)
            yield Order(self._round, device, packet)

    def _read(self, reply: Reply, sent: Update) -> tuple[Update | None, str | None]:
        if reply.packet is None:
            return None, reply.refusal or "the device sent nothing"
        try:
            update = self._codec.decode(reply.packet)
            check_same_form(update, sent)
            check_finite(update)
        except UpdateRefused as refusal:
            return None, str(refusal)
        return update, None
