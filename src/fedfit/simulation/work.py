"""What a round asks of each device of a run, as arrays affine in the rank: cycles and bits of the model that really trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.data.tokenize import Samples
from fedfit.models.cost import ModelShape, adapted_matrices
from fedfit.models.flops import batch_flops, step_flops, trunk_flops
from fedfit.planning.problem import Work, paper_work
from fedfit.records import PARTS, Factors, Update
from fedfit.settings import Recipe
from fedfit.wireless.fleet import Fleet


@dataclass(frozen=True)
class WorkModel:
    """Cycles and bits by device for a recipe. ``fleet`` holds the samples that the partition gave each device.

    ``overhead_bytes`` is what a packet takes beside the factors' own numbers: the head, names and framing. ``travels`` are the
    parts that go over the air at all, and ``extra_bytes_per_rank`` what a rule sends beside them that grows with the rank.
    Where a rule sends less up than down, the larger of the two is planned for both.
    """

    recipe: Recipe
    fleet: Fleet
    shape: ModelShape
    lengths: Sequence[np.ndarray]
    overhead_bytes: float
    travels: frozenset[str] = PARTS
    extra_bytes_per_rank: float = 0.0

    @cached_property
    def formula(self) -> Work:
        """Eq. 5: both factors both ways, whatever the rule sends of them, without the head; cycles by ``plan.compute``, with
        the trunk already cached.
        """
        matrices = self._matrices
        work = paper_work(
            self.fleet.with_samples(self.fleet.samples * self.passes),
            products=float(sum(rows * columns for rows, columns in matrices)),
            sums=float(sum(rows + columns for rows, columns in matrices)),
            bits_per_parameter=self.recipe.plan.bits_per_parameter,
            bits_fixed=0.0,
        )
        if self.recipe.plan.compute == "paper":
            return work
        fixed, per_rank = self._flops
        return replace(work, cycles_fixed=fixed, cycles_per_rank=per_rank)

    @cached_property
    def sent(self) -> Work:
        """All that is sent: the factors in 32 bits, the head, and the packet's own bytes."""
        bits = np.full(len(self.fleet), 8.0 * self.overhead_bytes)
        rows_and_columns = [(d if "b" in self.travels else 0, k if "a" in self.travels else 0) for d, k in self._matrices]
        numbers = float(sum(rows + columns for rows, columns in rows_and_columns))
        per_rank = 32.0 * numbers + 8.0 * self.extra_bytes_per_rank
        return replace(self.formula, bits_fixed=bits, bits_per_rank=np.full(len(self.fleet), per_rank))

    @cached_property
    def trunk_cycles(self) -> np.ndarray:
        """The trunk's forward over each device's own samples, once; nothing in the paper's count, ``(devices,)``."""
        if self.recipe.plan.compute == "paper":
            return np.zeros(len(self.fleet))
        counts = [trunk_flops(self.shape, lengths) for lengths in self.lengths]
        cycles: np.ndarray = _totals(counts, [len(lengths) for lengths in self.lengths]) / self.fleet.operations_per_cycle
        return cycles

    @cached_property
    def passes(self) -> np.ndarray:
        """How often a round trains each sample of a device: the local epochs, or what the local steps come to."""
        training = self.recipe.training
        if training.local_steps is None:
            return np.full(len(self.fleet), float(training.local_epochs))
        passes: np.ndarray = training.local_steps * training.batch_size / np.maximum(self.fleet.samples, 1)
        return passes

    @property
    def _matrices(self) -> list[tuple[int, int]]:
        return adapted_matrices(self.shape)

    @cached_property
    def _flops(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycles that do not depend on the rank, and those of one rank; batches hold texts of about one length, so padding
        is not counted.
        """
        trunk = not self.recipe.trunk_cache.enabled
        samples = [step_flops(self.shape, lengths, trunk) for lengths in self.lengths]
        batch, batches = batch_flops(self.shape), self.fleet.samples / self.recipe.training.batch_size
        sizes = [len(lengths) for lengths in self.lengths]
        fixed = _totals([count.fixed for count in samples], sizes) + batches * batch.fixed
        per_rank = _totals([count.per_rank for count in samples], sizes) + batches * batch.per_rank
        per_cycle = self.passes / self.fleet.operations_per_cycle
        return fixed * per_cycle, per_rank * per_cycle


def _totals(counts: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Sums over each device's samples; a count that no sample changes is one number."""
    return np.array([float(np.broadcast_to(count, size).sum()) for count, size in zip(counts, sizes, strict=True)])


def device_lengths(samples: Samples, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tokens of every sample, device by device."""
    return [samples.lengths[part] for part in parts]


def extra_bytes(rule: Rule, adapter: Update) -> tuple[float, float]:
    """What travels beside the parts of ``adapter`` at most: bytes at any rank, and bytes for each rank up to its own."""
    rank = max((len(pair.a) for pair in adapter.factors.values()), default=0)
    whole = rule.extra_bytes(adapter)
    if rank < 2:
        return float(whole), 0.0
    first = {name: Factors(pair.a[:1], pair.b[:, :1], pair.scale) for name, pair in adapter.factors.items()}
    per_rank = max(0.0, (whole - rule.extra_bytes(replace(adapter, factors=first))) / (rank - 1))
    return whole - rank * per_rank, per_rank


def overhead_bytes(codec: Codec, adapter: Update, travels: frozenset[str] = PARTS) -> int:
    """The most that a packet of ``adapter``'s modules and head takes beside the factors' numbers, at any rank up to its own.
    ``travels`` are the parts of it that do.

    Measured on an update whose scales, weight and metrics have as many digits as any can have.
    """
    wordy = 1 / 3
    factors = {name: Factors(pair.a, pair.b, wordy) for name, pair in adapter.factors.items()}
    metrics = {"steps": 1e15 + wordy, "train_loss": wordy}
    packet = codec.encode(Update(factors, adapter.head, 1e15 + wordy, metrics), travels)
    sent = (pair.a.numel() * ("a" in travels) + pair.b.numel() * ("b" in travels) for pair in adapter.factors.values())
    numbers = sum(sent)
    return packet.size_bytes - 4 * numbers + 8  # the header is filled up to a multiple of 8
