"""One case: check the gradients, then let the contenders take turns, device by device."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gradients import check_gradients
from benchmarks.meters import PeakMemory, StepClock, count_flops, peak_flops, process_peak_bytes
from benchmarks.plain import Block, Plain, TrainerPerDevice, build_plain
from benchmarks.split import Cold, Reuse, SplitRunner, Warm, named, start_from, switch_ms
from benchmarks.work import SEED, Case, Work
from fedfit.adapters.build import build_split_model
from fedfit.core.update import Update
from fedfit.models.split import SplitModel


class Contender(Protocol):
    """One way to do the work."""

    @property
    def name(self) -> str:
        """As the table has it."""

    def run(self, device: int, *, brief: bool = False) -> Block:
        """Trains one device; as little of it as tells memory and operations when ``brief``."""


@dataclass
class Tally:
    """What is known of one contender. ``flops`` is a step's, ``extra_bytes`` what it needs beyond the resting level."""

    flops: float = 0.0
    extra_bytes: int | None = None
    blocks: list[Block] = field(default_factory=list)

    @property
    def steps_ms(self) -> list[float]:
        """Milliseconds of every step."""
        return [1000 * step for block in self.blocks for step in block.steps_s]

    @property
    def setup_ms(self) -> float:
        """Median milliseconds that a device costs beside its steps."""
        return 1000 * statistics.median(block.setup_s for block in self.blocks)

    @property
    def samples_per_s(self) -> float:
        """Samples a second of the steps alone."""
        return sum(block.samples for block in self.blocks) / (sum(self.steps_ms) / 1000)

    @property
    def tokens(self) -> float:
        """Mean tokens a step, padding included."""
        return sum(block.tokens for block in self.blocks) / len(self.steps_ms)


@dataclass
class Result:
    """One table. ``peaks`` are the machine's operations a second, measured between the blocks."""

    case: Case
    work: Work
    gradient_error: float
    tallies: dict[str, Tally]
    peaks: list[float]
    switch: dict[str, float]
    reuse: list[Reuse]
    process_bytes: int

    @property
    def peak(self) -> float:
        """The machine's operations a second: the median over the run, as the steps are."""
        return statistics.median(self.peaks)

    def ratios(self, name: str) -> list[float]:
        """How many times faster than the plain loop, device by device over the same samples."""
        pairs = zip(self.tallies["plain"].blocks, self.tallies[name].blocks, strict=True)
        return [sum(plain.steps_s) / sum(other.steps_s) for plain, other in pairs]


@dataclass
class Field:
    """The contenders of a case, built; cold comes right before warm, which reads what it wrote."""

    model: SplitModel
    plain: Any
    initial: Update
    runner: SplitRunner
    contenders: list[Contender]
    warm: Warm


def assemble(case: Case, work: Work, clock: StepClock, root: Path) -> Field:
    """Builds both models and the contenders on them, all starting from one adapter."""
    model = build_split_model(case.location, work.labels, case.adapter, SEED, case.torch_device)
    plain = build_plain(case, work.labels)
    initial = start_from(model)
    tensors = named(initial)
    runner = SplitRunner(case, work, model, initial, clock)
    cold = Cold(runner, root)
    warm = Warm(runner, cold)
    contenders: list[Contender] = [
        Plain(case, work, plain, tensors, clock),
        Plain(case, work, plain, tensors, clock, deep_copy=True),
        TrainerPerDevice(case, work, plain, tensors, clock),
        cold,
        warm,
    ]
    return Field(model, plain, initial, runner, contenders, warm)


def measure(case: Case, work: Work, tell: Callable[[str], None]) -> Result:
    """Raises ``GradientsDiffer`` before anything is timed, when the contenders do not do the same."""
    clock = StepClock(case.torch_device)
    try:
        with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as root:
            found = assemble(case, work, clock, Path(root))
            tell("gradients")
            error = check_gradients(case, work, found.model, found.plain, found.initial)
            tallies = {contender.name: _inspect(contender, case, tell) for contender in found.contenders}
            found.warm.reuse.clear()
            peaks = [peak_flops(case.torch_device, case.precision)]
            for device in range(case.devices):
                for contender in _turn(found.contenders, device):
                    tell(f"device {device + 1} of {case.devices}: {contender.name}")
                    tallies[contender.name].blocks.append(contender.run(device))
                    peaks.append(peak_flops(case.torch_device, case.precision))
            tell("switch")
            switch = switch_ms(case, found.model, found.initial)
            memory = process_peak_bytes(case.torch_device)
            return Result(case, work, error, tallies, peaks, switch, found.warm.reuse, memory)
    finally:
        clock.close()


def _inspect(contender: Contender, case: Case, tell: Callable[[str], None]) -> Tally:
    """A run that is not timed, which also warms up: operations a step, and memory."""
    tell(f"warm-up: {contender.name}")
    blocks: list[Block] = []
    memory = PeakMemory(case.torch_device)
    flops = count_flops(lambda: blocks.append(contender.run(0, brief=True)))
    return Tally(flops / len(blocks[0].steps_s), memory.bytes_used())


def _turn(contenders: list[Contender], device: int) -> list[Contender]:
    """Another one begins on each device; cold and warm stay in their order."""
    first, pair = contenders[:-2], contenders[-2:]
    start = device % len(first)
    rotated = first[start:] + first[:start]
    return pair + rotated if device % 2 else rotated + pair
