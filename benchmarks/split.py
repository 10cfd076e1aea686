"""fedfit itself, cold and warm, through its own trainer, trunk and model; and what a switch of device costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.meters import StepClock, median_ms, synchronize
from benchmarks.plain import Block
from benchmarks.work import SEED, Case, Work
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import HEAD, Job, Update
from fedfit.models.batch import Batch
from fedfit.models.split import SplitModel
from fedfit.models.trunk import TokenSamples, Trunk, open_trunk
from fedfit.rounds.optimizers import make_optimizer
from fedfit.rounds.trainer import Trainer
from fedfit.settings import TrunkCacheSettings
from fedfit.tasks.classification import Classification

_ROUNDS = 1000  # of the run that the trainer believes to be in; the rate is constant
_SWITCH_REPEATS = 30


class _Watched:
    """A trunk that starts the clock at its first batch and remembers which batches were asked for."""

    def __init__(self, trunk: Trunk, clock: StepClock) -> None:
        self._trunk, self._clock = trunk, clock
        self.asked: list[np.ndarray] = []

    def prepare(self, samples: TokenSamples, indices: Iterable[int]) -> None:
        self._trunk.prepare(samples, indices)

    def batch(self, samples: TokenSamples, indices: np.ndarray) -> Batch:
        if not self.asked:
            self._clock.start()
        self.asked.append(indices)
        return self._trunk.batch(samples, indices)


@dataclass(frozen=True)
class Reuse:
    """The trunk cache over one device's samples: a first run fills it, a second opens and reads it. Seconds and bytes."""

    samples: int
    fill_s: float
    open_s: float
    read_s: float
    size_bytes: int


class SplitRunner:
    """Runs fedfit's own trainer on a trunk and times its steps."""

    def __init__(self, case: Case, work: Work, model: SplitModel, initial: Update, clock: StepClock) -> None:
        self.case, self.work, self.model = case, work, model
        self._initial, self._clock = initial, clock
        self.trained = initial

    def train(self, trunk: Trunk, device: int, prepare_s: float = 0.0) -> Block:
        """One round of ``device``; ``prepare_s`` is added to each step."""
        case, work = self.case, self.work
        watched = _Watched(trunk, self._clock)
        task = Classification(tuple(map(str, range(work.labels))))
        trainer = Trainer(self.model, cast(Trunk, watched), task, case.training, SEED, _ROUNDS)
        started = time.perf_counter()
        self.trained = trainer.train(Job(self._initial), work.samples, work.parts[device], work.rounds[device], device)
        total_s = time.perf_counter() - started
        steps_s = self._clock.stop()
        planned = work.batches[device]
        if len(watched.asked) != len(planned) or not all(map(np.array_equal, watched.asked, planned)):
            raise RuntimeError("fedfit trained on other batches than the others: benchmarks.work no longer plans as it does")
        samples = sum(map(len, watched.asked))
        tokens = sum(len(batch) * int(work.samples.lengths[batch].max()) for batch in watched.asked)
        return Block([step + prepare_s for step in steps_s], total_s - sum(steps_s), samples, tokens, prepare_s)


class Cold:
    """A run on data never seen: all of the device's samples go through the trunk before its steps.

    A step's time has its share of that: ``batch_size`` samples' worth.
    """

    name = "fedfit cold"

    def __init__(self, runner: SplitRunner, root: Path) -> None:
        self._runner, self._root = runner, root
        self.filled: dict[int, tuple[Path, np.ndarray, float]] = {}
        """By device: the folder of its cache, the samples in it, the seconds of filling it."""

    def run(self, device: int, *, brief: bool = False) -> Block:
        """Fills a fresh cache, then trains. When ``brief``, it is filled with the samples of the steps alone."""
        case, work = self._runner.case, self._runner.work
        folder = self._root / f"{device}{'-brief' if brief else ''}"
        trunk = open_trunk(self._runner.model, TrunkCacheSettings(), folder, self._runner.case.precision)
        wanted = np.unique(np.concatenate(work.batches[device])) if brief else work.parts[device]
        started = time.perf_counter()
        trunk.prepare(work.samples, wanted)
        synchronize(case.torch_device)
        fill_s = time.perf_counter() - started
        self.filled[device] = (folder, wanted, fill_s)
        return self._runner.train(trunk, device, fill_s * case.batch_size / len(wanted))


class Warm:
    """A later run on the same data: a new trunk on the cache that the cold one has filled."""

    name = "fedfit warm"

    def __init__(self, runner: SplitRunner, cold: Cold) -> None:
        self._runner, self._cold = runner, cold
        self.reuse: list[Reuse] = []

    def run(self, device: int, *, brief: bool = False) -> Block:
        """Trains from the cache of the cold run that came before it."""
        del brief  # there is nothing to leave out
        folder, samples, fill_s = self._cold.filled[device]
        started = time.perf_counter()
        trunk = open_trunk(self._runner.model, TrunkCacheSettings(), folder, self._runner.case.precision)
        opened = time.perf_counter()
        trunk.prepare(self._runner.work.samples, samples)
        read_s = time.perf_counter() - opened
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self.reuse.append(Reuse(len(samples), fill_s, opened - started, read_s, size_bytes))
        return self._runner.train(trunk, device)


@torch.no_grad()
def start_from(model: SplitModel) -> Update:
    """The adapter that every contender starts from. B is drawn: a zero B would hide A's gradient and the scale."""
    generator = torch.Generator().manual_seed(SEED)
    for _, b in model.adapter.pairs():
        b.copy_(0.02 * torch.randn(b.shape, generator=generator))
    return model.adapter.snapshot()


def named(update: Update) -> dict[str, Tensor]:
    """The tensors of ``update`` by the names of ``benchmarks.plain.trainable``."""
    factors = {
        f"{name}.{part}": tensor
        for name, pair in update.factors.items()
        for part, tensor in (("lora_A", pair.a), ("lora_B", pair.b))
    }
    return {**factors, **update.groups[HEAD]}


def switch_ms(case: Case, model: SplitModel, initial: Update) -> dict[str, float]:
    """Median milliseconds of each thing that a switch of device does, and of all of them: the decoded packet is loaded,
    an optimiser made, the mode set, and what was trained is copied out and encoded.
    """
    codec, device = PlainCodec(), case.torch_device
    packet, _ = codec.encode(initial)
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: codec.decode(packet),
        "load": lambda: model.adapter.load(Job(initial)),
        "optimizer": lambda: make_optimizer(model.adapter.named_parameters().values(), case.training),
        "train_mode": lambda: model.train_mode(True, base_dropout=case.dropout),
        "eval_mode": lambda: model.train_mode(False),
        "snapshot": lambda: model.adapter.snapshot(),
        "encode": lambda: codec.encode(initial),
    }

    def whole() -> None:
        for part in parts.values():
            part()

    times = {name: median_ms(part, _SWITCH_REPEATS, device) for name, part in parts.items()}
    return {**times, "all": median_ms(whole, _SWITCH_REPEATS, device), "packet_bytes": float(packet.size_bytes)}
