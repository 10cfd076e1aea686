"""The real client and the real codec, with a hand on what passes through them."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedfit.aggregation.base import named_tensors
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.records import PARTS, Order, Packet, Reply, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.link import Link
from fedfit.simulation.run import Simulation, run
from fedfit.tracking.checkpoint import Checkpoints
from tests.builders import random_update

Change = Callable[[int, int, Update], Update]
"""Of round, device, and what the device trained."""


class _Changed(Client):
    change: Change

    def train(self, task: Task, samples: Any, indices: Any, round_number: int, device: int, parts: Any = PARTS) -> Update:
        return self.change(round_number, device, super().train(task, samples, indices, round_number, device, parts))


def change_training(made: Simulation, change: Change) -> None:
    """What every device of ``made`` trains goes through ``change`` before the rule sees it."""
    client = _Changed(made.model, made.trunk, made.recipe.training, made.recipe.seed, made.recipe.federation.rounds)
    client.change = change
    made.client = client


class Recording(SafetensorsCodec):
    """Keeps every packet that it encoded."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


def run_and_save(made: Simulation, checkpoints: Checkpoints) -> None:
    """As far as it comes."""
    for result in run(made):
        checkpoints.save(result)


@dataclass(frozen=True)
class Spoiled:
    """A link that changes what travels beside the head in the reply of device 1."""

    link: Link
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    base: Update

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        codec = SafetensorsCodec()
        for reply in self.link.exchange(orders):
            assert reply.packet is not None
            update = codec.decode(reply.packet, self.base)
            packet = codec.encode(replace(update, extra=self.spoil(dict(update.extra))), frozenset({"head"}))
            yield replace(reply, packet=packet) if reply.device == 1 else reply


def most_alive(consume: Callable[[Iterator[Update]], Any]) -> int:
    """The most tensors of earlier updates that are still there when ``consume`` asks for the next of four."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for seed in range(4):
            gc.collect()
            most = max(most, len(alive))
            update = random_update(seed)
            alive.update(named_tensors(update).values())
            yield update
            del update

    consume(updates())
    return most
