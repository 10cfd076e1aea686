"""One rule's server through one round, with updates read from disk as packets: seconds and memory of the server alone."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.meters import PeakMemory
from fedfit.adapters.lora import check_same_form
from fedfit.aggregation.contract import Rule
from fedfit.aggregation.table import RULES
from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Packet
from fedfit.core.update import AdapterSize, Factors, Origin, Update, named_tensors, with_tensors
from fedfit.randomness import derive_seed
from fedfit.tracking.memories import DeviceMemories

CLASSES = 4
SHARES = (8, 4, 2)  # devices have 1/8, 1/4, 1/2 of the global rank in turn


@dataclass(frozen=True)
class Load:
    """What the server has to do: query and value of ``layers`` layers, ``width × width`` each, and RoBERTa's head.

    ``round`` is the one that is measured; those before it are run.
    """

    rule: str
    mixed: bool = False
    devices: int = 50
    rank: int = 64
    layers: int = 12
    width: int = 768
    round: int = 2
    repeats: int = 3
    threads: int = 1

    @property
    def ranks(self) -> list[int]:
        """By device."""
        return [max(1, self.rank // SHARES[n % len(SHARES)]) if self.mixed else self.rank for n in range(self.devices)]


@dataclass(frozen=True)
class Measured:
    """Medians over the repeats, in CPU seconds: with one thread they are those of an idle machine, whatever else is running.

    ``extra_bytes`` is the high-water mark of the process's resident memory above what it was
    before the first; ``None`` where the kernel cannot tell. ``uplink_bytes`` are of one device, the largest.
    """

    dispatch_s: float
    apply_s: float
    extra_bytes: int | None
    uplink_bytes: int


def initial_adapter(load: Load) -> Update:
    """Fresh A, B = 0 and a random head."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).div_(math.sqrt(load.width))

    names = [f"layer.{layer}.{end}" for layer in range(load.layers) for end in ("query", "value")]
    wide = load.width
    factors = {name: Factors(draw(load.rank, wide), torch.zeros(wide, load.rank), size_of(load.rank).scale) for name in names}
    head = {"dense.weight": draw(wide, wide), "dense.bias": draw(wide)}
    return Update(factors, head | {"out_proj.weight": draw(CLASSES, wide), "out_proj.bias": draw(CLASSES)})


def size_of(rank: int) -> AdapterSize:
    """α = 16, scale α/r."""
    return AdapterSize(rank, 16 / rank)


def measure_rule(load: Load) -> Measured:
    """Runs the rounds before, writes the measured round's packets, and then lets the server take them, ``repeats`` times.

    The server's own work is timed: ``dispatch``, over all devices; ``begin`` and ``apply``. What it waits for is not: the
    device's half, reading and decoding. Memory counts from when the packets lie on disk, so that it is the server's alone:
    what dispatch and apply make, the new state, and as many updates as the rule keeps.
    """
    torch.set_num_threads(load.threads)
    rule, initial = RULES[load.rule](), initial_adapter(load)
    state = rule.init(initial)
    with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as root:
        exchange = Devices(rule, load, initial, Path(root))
        for number in range(1, load.round):
            state = rule.begin(state, number)
            exchange.write(state, number, remember=True)
            state = rule.apply(state, exchange.updates(state, number))
        exchange.write(rule.begin(state, load.round), load.round, remember=False)
        memory, seconds, extra_bytes = PeakMemory(torch.device("cpu")), [], None
        for repeat in range(load.repeats):
            exchange.dispatch_s = exchange.waited_s = 0.0
            started = time.process_time()
            begun = rule.begin(state, load.round)
            after = rule.apply(begun, exchange.updates(begun, load.round))
            seconds.append((exchange.dispatch_s, time.process_time() - started - exchange.waited_s))
            if repeat == 0:
                extra_bytes = memory.bytes_used()
            _check_moved(rule, state, after)
            del begun, after
        dispatch_s, apply_s = (statistics.median(values) for values in zip(*seconds, strict=True))
        return Measured(dispatch_s, apply_s, extra_bytes, exchange.uplink_bytes)


class Devices:
    """All devices of a round: their halves of it are done beforehand, and what they send lies in ``folder``."""

    def __init__(self, rule: Rule, load: Load, initial: Update, folder: Path) -> None:
        self._rule, self._load, self._initial, self._folder = rule, load, initial, folder
        self._codec, self._memories = PlainCodec(), DeviceMemories(folder / "memories")
        self.dispatch_s, self.waited_s, self.uplink_bytes = 0.0, 0.0, 0

    def write(self, state: Any, number: int, remember: bool) -> None:
        """Every device's packet of round ``number``, as ``rounds.device`` makes it but with noise in place of training."""
        for device in range(self._load.devices):
            packet = self._codec.encode(self._dispatched(state, device, number), self._rule.gets(number))
            memory = self._memories.read(device, number)
            task = self._rule.receive(self._codec.decode(packet, self._initial), memory)
            trained = _trained(task, self._rule.trains(number), derive_seed(1, "noise", number, device))
            update, kept = self._rule.send(task, replace(trained, weight=100.0 + device), memory)
            reply = self._codec.encode(update, self._rule.sends(number))
            self._path(device).write_bytes(reply.payload)
            self.uplink_bytes = max(self.uplink_bytes, reply.size_bytes)
            if kept is not None and remember:
                self._memories.write(device, number, kept)

    def updates(self, state: Any, number: int) -> Iterator[Update]:
        """As ``rounds.server`` has it: dispatched when it is a device's turn, read, checked, handed on, and forgotten.

        ``dispatch_s`` grows by the CPU seconds of the first, ``waited_s`` by those of all.
        """
        for device in range(self._load.devices):
            started = time.process_time()
            sent = self._dispatched(state, device, number)
            self.dispatch_s += time.process_time() - started
            packet = Packet(self._path(device).read_bytes())
            update = self._codec.decode(packet, sent, self._rule.sends(number))
            check_same_form(update, self._rule.expected(sent, update))
            update = replace(update, weight=1.0 if self._rule.uniform else update.weight, origin=sent.origin)
            del packet, sent
            self.waited_s += time.process_time() - started
            yield update
            del update  # before the next is made

    def _dispatched(self, state: Any, device: int, number: int) -> Update:
        seed = derive_seed(0, "dispatch", number, device)
        update = self._rule.dispatch(state, device, size_of(self._load.ranks[device]), seed)
        return replace(update, origin=Origin(device, seed))

    def _path(self, device: int) -> Path:
        return self._folder / f"device-{device}"


def _trained(task: Task, parts: frozenset[str], seed: int) -> Update:
    """Noise of a hundredth on what is trained, in the places that the task leaves free."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(named_tensors(task.update))
    for name, tensor in tensors.items():
        if ("head" if name.startswith("head ") else name[-1].lower()) in parts:
            noise = torch.randn(tensor.shape, generator=generator).mul_(0.01)
            tensors[name] = tensor + (noise * task.mask[name] if name in task.mask else noise)
    return with_tensors(task.update, tensors)


def _check_moved(rule: Rule, before: Any, after: Any) -> None:
    """A server that took no update would be the quickest of all."""
    old, new = rule.adapter(before).groups["head"], rule.adapter(after).groups["head"]
    if any(torch.equal(tensor, new[name]) for name, tensor in old.items()):
        raise AssertionError(f"{type(rule).__name__}: the head did not move")
