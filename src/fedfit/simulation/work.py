"""What a round asks of each device of a run, as arrays affine in the rank: cycles and bits of the model that really trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedfit.models.cost import AdaptedShape, adapted_matrices
from fedfit.models.flops import batch_flops, step_flops, trunk_flops
from fedfit.planning.problem import Work, paper_work
from fedfit.settings import Recipe
from fedfit.simulation.traffic import Traffic
from fedfit.wireless.fleet import Fleet


@dataclass(frozen=True)
class WorkModel:
    """Cycles and bits by device for a recipe.

    Args:
        fleet: holds the samples that the partition gave each device.
        lengths: tokens of every sample, device by device.
        reads: positions that the task reads of every sample, device by device; ``None`` for one each.
        trainings: how often a device trains in a round, each time as the recipe has it: more than once where it trains an
            adapter of its own besides.
        uplink: the size of the packets that the rule has devices send.
        downlink: the size of those that they are sent.
    """

    recipe: Recipe
    fleet: Fleet
    shape: AdaptedShape
    lengths: Sequence[np.ndarray]
    uplink: Traffic
    downlink: Traffic
    reads: Sequence[np.ndarray] | None = None
    trainings: float = 1.0

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
        """All that the rule sends in each direction, the head and the packet's own bytes included."""

        def each(bits: float) -> np.ndarray:
            return np.full(len(self.fleet), bits)

        return replace(
            self.formula,
            uplink_bits_fixed=each(self.uplink.bits_fixed),
            uplink_bits_per_rank=each(self.uplink.bits_per_rank),
            downlink_bits_fixed=each(self.downlink.bits_fixed),
            downlink_bits_per_rank=each(self.downlink.bits_per_rank),
        )

    @cached_property
    def trunk_cycles(self) -> np.ndarray:
        """The trunk's forward over each device's own samples, once, ``(devices,)``; 0 in the paper's count and where nothing is
        cached.
        """
        if self.recipe.plan.compute == "paper" or self._repeats_trunk:
            return np.zeros(len(self.fleet))
        counts = [trunk_flops(self.shape, lengths) for lengths in self.lengths]
        cycles: np.ndarray = _totals(counts, [len(lengths) for lengths in self.lengths]) / self.fleet.operations_per_cycle
        return cycles

    @cached_property
    def passes(self) -> np.ndarray:
        """How often a round trains each sample of a device: the local epochs, or what the local steps come to."""
        training = self.recipe.training
        if training.local_steps is None:
            return np.full(len(self.fleet), self.trainings * training.local_epochs)
        passes: np.ndarray = self.trainings * training.local_steps * training.batch_size / np.maximum(self.fleet.samples, 1)
        return passes

    @property
    def _repeats_trunk(self) -> bool:
        """Whether each pass computes the trunk anew: embeddings alone are not cached."""
        return not self.recipe.trunk_cache.enabled or self.shape.cut == 0

    @property
    def _matrices(self) -> list[tuple[int, int]]:
        return [matrix.size for matrix in adapted_matrices(self.shape)]

    @cached_property
    def _flops(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycles that do not depend on the rank, and those of one rank; batches hold texts of about one length, so padding
        is not counted.
        """
        reads: Sequence[Any] = self.reads if self.reads is not None else [1] * len(self.lengths)
        samples = [
            step_flops(self.shape, lengths, self._repeats_trunk, positions)
            for lengths, positions in zip(self.lengths, reads, strict=True)
        ]
        batch, batches = batch_flops(self.shape), self.fleet.samples / self.recipe.training.batch_size
        sizes = [len(lengths) for lengths in self.lengths]
        fixed = _totals([count.fixed for count in samples], sizes) + batches * batch.fixed
        per_rank = _totals([count.per_rank for count in samples], sizes) + batches * batch.per_rank
        per_cycle = self.passes / self.fleet.operations_per_cycle
        return fixed * per_cycle, per_rank * per_cycle


def _totals(counts: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Sums over each device's samples; a count that no sample changes is one number."""
    return np.array([float(np.broadcast_to(count, size).sum()) for count, size in zip(counts, sizes, strict=True)])


def by_device(values: np.ndarray, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A number of every sample, device by device."""
    return [values[part] for part in parts]
