"""One rule's server through one round, with updates read from disk as packets: seconds and memory of the server alone."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.meters import PeakMemory
from fedfit.aggregation.contract import Context, Rule
from fedfit.aggregation.table import RULES
from fedfit.codecs.plain import PlainCodec
from fedfit.core.checks import check_form
from fedfit.core.messages import Order, Packet
from fedfit.core.update import (
    HEAD,
    AdapterSize,
    Factors,
    Job,
    Origin,
    ServerState,
    Update,
    named_tensors,
    update_of,
    with_tensors,
)
from fedfit.randomness import derive_seed
from fedfit.rounds.devices import Devices, completed
from fedfit.rounds.trainer import Trainer
from fedfit.tracking.memories import DeviceMemories

CLASSES = 4
KEYS: dict[str, dict[str, Any]] = {"krum": {"byzantine": 0}, "norm_bound": {"bound": 1.0}}
"""Of rules that need some; krum as such takes five updates or more."""
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
    dense = {"dense.weight": draw(wide, wide), "dense.bias": draw(wide)}
    return update_of(factors, {HEAD: dense | {"out_proj.weight": draw(CLASSES, wide), "out_proj.bias": draw(CLASSES)}})


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
    rule, initial = rule_of(load), initial_adapter(load)
    server = rule.server
    state = server.init(initial)
    with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as root:
        exchange = Packets(rule, load, initial, Path(root))
        for number in range(1, load.round):
            state = server.begin(state, number)
            exchange.write(state, number)
            state = server.apply(state, exchange.updates(state, number))
        exchange.write(server.begin(state, load.round), load.round)
        memory, seconds, extra_bytes = PeakMemory(torch.device("cpu")), [], None
        for repeat in range(load.repeats):
            exchange.dispatch_s = exchange.waited_s = 0.0
            started = time.process_time()
            # a new object, as in a run in every round: what a rule keeps for one adapter is of no use for it
            begun = server.begin(replace(state, adapter=replace(state.adapter)), load.round)
            after = server.apply(begun, exchange.updates(begun, load.round))
            seconds.append((exchange.dispatch_s, time.process_time() - started - exchange.waited_s))
            if repeat == 0:
                extra_bytes = memory.bytes_used()
            _check_moved(load, rule, state, after)
            del begun, after
        dispatch_s, apply_s = (statistics.median(values) for values in zip(*seconds, strict=True))
        return Measured(dispatch_s, apply_s, extra_bytes, exchange.uplink_bytes)


def rule_of(load: Load) -> Rule:
    """The rule with as few keys as it runs with."""
    entry = RULES[load.rule]
    keys = None if entry.keys is None else entry.keys(**KEYS.get(load.rule, {}))
    return entry.make(keys, Context(holders=load.devices))


class Packets:
    """The packets of a round: the devices' halves of it are done beforehand, and what they send lies in ``folder``."""

    def __init__(self, rule: Rule, load: Load, initial: Update, folder: Path) -> None:
        self._rule, self._load, self._groups, self._folder = rule, load, initial.present, folder
        self._codec = PlainCodec()
        memories, trainer = DeviceMemories(folder / "memories"), cast(Trainer, _Noise())
        rows: Any = [np.empty(0)] * load.devices  # no sample is looked at
        self._devices = Devices(rule, trainer, self._codec, self._codec, memories, initial, cast(Any, None), rows, seed=0)
        self.dispatch_s, self.waited_s, self.uplink_bytes = 0.0, 0.0, 0

    def write(self, state: ServerState, number: int) -> None:
        """Every device's packet of round ``number``, as ``rounds.devices`` makes it but with noise in place of training."""
        traits = self._rule.traits
        for device in range(self._load.devices):
            update = self._dispatched(state, device, number)
            travels = traits.downlink_groups(number, self._groups) | (update.present - self._groups)
            packet, _ = self._codec.encode(update.only(travels))
            reply = self._devices.answer(Order(number, device, packet, traits.trained(number, self._groups)))
            if reply.packet is None:
                raise AssertionError(f"{self._load.rule}: device {device} sent nothing: {reply.refusal}")
            self._path(device).write_bytes(reply.packet.payload)
            self.uplink_bytes = max(self.uplink_bytes, reply.packet.size_bytes)

    def updates(self, state: ServerState, number: int) -> Iterator[Update]:
        """As ``rounds.round`` has it: dispatched when it is a device's turn, read, checked, handed on, and forgotten.

        ``dispatch_s`` grows by the CPU seconds of the first, ``waited_s`` by those of all.
        """
        for device in range(self._load.devices):
            started = time.process_time()
            sent = self._dispatched(state, device, number)
            self.dispatch_s += time.process_time() - started
            packet, forms = Packet(self._path(device).read_bytes()), self._rule.server.reply_forms(sent)
            update = completed(self._codec.decode(packet, forms[0]), forms[0])
            check_form(update, forms)
            update = replace(update, weight=1.0 if self._rule.traits.uniform else update.weight, origin=sent.origin)
            del packet, sent, forms
            self.waited_s += time.process_time() - started
            yield update
            del update  # before the next is made

    def _dispatched(self, state: ServerState, device: int, number: int) -> Update:
        seed = derive_seed(0, "dispatch", number, device)
        update = self._rule.server.dispatch(state, device, size_of(self._load.ranks[device]), seed)
        return replace(update, origin=Origin(device, seed))

    def _path(self, device: int) -> Path:
        return self._folder / f"device-{device}"


class _Noise:
    """In the place of a trainer: noise of a hundredth on the trained groups, in the places that the job leaves free."""

    def train(self, job: Job, samples: object, rows: object, number: int, device: int, groups: frozenset[str]) -> Update:
        generator = torch.Generator().manual_seed(derive_seed(1, "noise", number, device))
        tensors = dict(named_tensors(job.update))
        for name, tensor in tensors.items():
            if name.partition(".")[0] in groups:
                noise = torch.randn(tensor.shape, generator=generator).mul_(0.01)
                tensors[name] = tensor + (noise * job.mask[name] if name in job.mask else noise)
        facts = {"steps": 1, "train_loss": 1.0, "learning_rate_sum": 0.1}
        return replace(with_tensors(job.update, tensors), weight=100.0 + device, facts=facts)


def _check_moved(load: Load, rule: Rule, before: ServerState, after: ServerState) -> None:
    """A server that took no update would be the quickest of all."""
    old, new = (rule.server.model(state).update.groups[HEAD] for state in (before, after))
    if any(torch.equal(tensor, new[name]) for name, tensor in old.items()):
        raise AssertionError(f"{load.rule}: the head did not move")
