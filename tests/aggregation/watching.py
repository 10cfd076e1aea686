"""The real trainer, link and codec, with a hand on what passes through them."""

import gc
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order, Packet, Reply
from fedfit.core.update import Job, Memory, Update, named_tensors
from fedfit.data.tokenize import Samples
from fedfit.experiment.build import Experiment, assemble
from fedfit.rounds.link import Link
from fedfit.rounds.trainer import WHOLE, Part, Trainer
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.builders import link_of, random_update

Change = Callable[[int, int, Update], Update]
"""Of round, device, and what the device trained."""


def change_training(made: Experiment, change: Change) -> None:
    """What every device of ``made`` trains goes through ``change`` before the rule sees it; a later call replaces this one."""

    def train(
        job: Job,
        samples: Samples,
        indices: np.ndarray,
        round_number: int,
        device: int,
        groups: frozenset[str] | None = None,
        part: Part = WHOLE,
    ) -> Update:
        update = Trainer.train(made.trainer, job, samples, indices, round_number, device, groups, part)
        return change(round_number, device, update)

    made.trainer.train = train  # type: ignore[method-assign]


def uploads_of(made: Experiment, change: Change = lambda number, device, update: update) -> list[Update]:
    """What devices train from now on, after ``change``, in the order in which they train it; the list grows."""
    found: list[Update] = []

    def keep(number: int, device: int, update: Update) -> Update:
        found.append(change(number, device, update))
        return found[-1]

    change_training(made, keep)
    return found


class Recording(PlainCodec):
    """Keeps every packet that it encoded, and the seed that it was given."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.seeds: list[int] = []

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        packet, state = super().encode(update, reference, seed, state)
        self.packets.append(packet)
        self.seeds.append(seed)
        return packet, state


def record(made: Experiment) -> Recording:
    """One recording codec for both directions of ``made``: the packets of its next rounds, down, up, down, up, …"""
    codec = Recording()
    made.federation = replace(made.federation, uplink=codec, downlink=codec)
    made.devices = link_of(made)
    made.federation = replace(made.federation, link=made.devices)
    return codec


def with_memories(made: Experiment, folder: Path | None) -> Experiment:
    """The same federation, whose devices keep their memories in ``folder``."""
    return assemble(replace(made.parts, memories=DeviceMemories(folder)))


def run_and_save(made: Experiment, checkpoints: Checkpoints) -> None:
    """Runs ``made`` as far as it gets, and saves every round."""
    for result in made.run():
        checkpoints.save(result)


@dataclass(frozen=True)
class Spoiled:
    """A link that changes the tensors beside the head in the packet of device 1, by their names in its file."""

    link: Link
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        for reply in self.link.exchange(orders, deadline_s):
            assert reply.packet is not None
            if reply.device == 1:
                reply = replace(reply, packet=Packet(self._changed(reply.packet.payload)))
            yield reply

    def _changed(self, payload: bytes) -> bytes:
        tensors = load(payload)
        head = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
        beside = {name: tensor for name, tensor in tensors.items() if name not in head}
        return save({**head, **self.spoil(beside)}, metadata=metadata_of(payload))


def metadata_of(payload: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    size = int.from_bytes(payload[:8], "little")
    found: dict[str, str] = json.loads(payload[8 : 8 + size])["__metadata__"]
    return found


def most_alive(consume: Callable[[Iterator[Update]], Any], make: Callable[[int], Update] = random_update) -> int:
    """The most tensors of earlier updates that are still there when ``consume`` asks for the next of four."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for seed in range(4):
            gc.collect()
            most = max(most, len(alive))
            update = make(seed)
            alive.update(named_tensors(update).values())
            yield update
            del update

    consume(updates())
    return most
