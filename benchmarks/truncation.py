"""FlexLoRA's server step on one matrix: from the factors, as fedfit does, and by the SVD of the whole ``ΔW``, as the paper."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.server_round import SHARES
from fedfit.aggregation.rules import flexlora
from fedfit.core.update import Factors, ServerState, Update, update_of

TOLERANCE = 1e-5
T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """CPU seconds of each turn, ours and dense side by side; ``error`` of our product, relative to the dense one's norm."""

    ranks: tuple[int, ...]
    ours_s: tuple[float, ...]
    dense_s: tuple[float, ...]
    error: float

    @property
    def ratios(self) -> list[float]:
        """How many times faster, turn by turn."""
        return [dense / ours for ours, dense in zip(self.ours_s, self.dense_s, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the turns."""
        return statistics.median(self.ratios)


def fleets(devices: int, rank: int) -> list[tuple[int, ...]]:
    """Ranks by device: few devices and many of an eighth of the rank, mixed ranks, and all at the whole rank."""
    low = max(1, rank // 8)
    some = [(low,) * max(1, count) for count in (devices // 10, devices // 5, devices * 2 // 5)]
    mixed = tuple(max(1, rank // SHARES[n % len(SHARES)]) for n in range(devices))
    return [*some, (low,) * devices, (rank // 4,) * devices, mixed, (rank,) * devices]


def compare(ranks: Sequence[int], rank: int, width: int, turns: int) -> Comparison:
    """Both on the same updates, one after the other, ``turns`` times after one that is not counted.

    Raises:
        AssertionError: when the two products differ by more than ``TOLERANCE``.
    """
    updates = [_update(number, own, width) for number, own in enumerate(ranks)]
    state = ServerState(_update(len(ranks), rank, width))
    seconds = []
    for _ in range(turns + 1):
        ours_s, found = _timed(lambda: flexlora.apply(state, iter(updates)).adapter.factors["m"])
        dense_s, (b, a) = _timed(lambda: dense_step(updates, rank))
        seconds.append((ours_s, dense_s))
    expected = b @ a
    error = float((found.scale * found.b.double() @ found.a.double() - expected).norm() / expected.norm())
    if not error < TOLERANCE:
        raise AssertionError(f"ranks {list(ranks)}: the products differ by {error:.1e}")
    ours, dense = zip(*seconds[1:], strict=True)
    return Comparison(tuple(ranks), ours, dense, error)


def dense_step(updates: Sequence[Update], rank: int) -> tuple[Tensor, Tensor]:
    """``B (d, rank)`` and ``A (rank, k)``, float64: ``Σ p_i s_i B_i A_i``, summed, and its SVD, cut."""
    total = sum(update.weight for update in updates)
    pairs = [update.factors["m"] for update in updates]
    mean = torch.zeros(len(pairs[0].b), pairs[0].a.shape[1], dtype=torch.float64)
    for update, pair in zip(updates, pairs, strict=True):
        mean.addmm_(pair.b.double(), pair.a.double(), alpha=update.weight / total * pair.scale)
    left, values, right = torch.linalg.svd(mean, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def _update(seed: int, rank: int, width: int) -> Update:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)
    return update_of({"m": Factors(a, b, 16 / rank)}, weight=100.0 + seed)


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    found = action()
    return time.process_time() - started, found
