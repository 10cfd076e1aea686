"""Robust means by coordinate: the median, and the mean without the ends.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv 1803.01498. Of the n
values that a coordinate of a factor or of the head has in a round's updates,

    median        the middle one, or the mean of the two middle ones for even n
    trimmed_mean  the mean of all but the k largest and the k smallest,   k = ⌈βn⌉,   k < n/2

Every update counts the same, as in the paper: a weight is told by the device, and a wild one would tell a large one. Of updates
that are fewer than half, or than the share that is cut, none can move a coordinate out of the range of the others.

Memory: all updates of a round, and one tensor of all of them in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import Update

_ROUNDING = 1e-9  # 0.28 · 25 is above 7


class Median(FedAvg):
    """Coordinate-wise median, without weights. Fewer than half of the updates, however wild, leave it among the others."""

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The median of factors and head."""
        return _by_coordinate(state, list(updates), lambda count: (count - 1) // 2)


class TrimmedMean(FedAvg):
    """Coordinate-wise mean without the ends, and without weights.

    What is cut is rounded up: of ten updates ``share = 0.15`` cuts two at each end, and of three 0.1 cuts one. Rounded down it
    would be a plain mean as soon as a few devices drop out. Of one or two updates nothing can be cut.

    Args:
        share: β, of the updates, at each end.

    Raises:
        ValueError: for a share below 0, or of 0.5 and more.
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 <= share < 0.5:
            raise ValueError(f"a share of {share} at each end; it must be at least 0 and below 0.5")
        self._share = share

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The trimmed mean of factors and head."""
        return _by_coordinate(state, list(updates), self._cut)

    def _cut(self, count: int) -> int:
        return min(math.ceil(self._share * count - _ROUNDING), (count - 1) // 2)


def _by_coordinate(state: Update, updates: Sequence[Update], cut: Callable[[int], int]) -> Update:
    """Each coordinate sorted over the updates, ``cut(n)`` values taken off at each end, and the mean of the rest."""
    if not updates:
        return state
    rows, ends = [named_tensors(update) for update in updates], cut(len(updates))
    means = {}
    for name in rows[0]:
        ordered = torch.stack([row[name].double() for row in rows]).sort(dim=0).values
        means[name] = ordered[ends : len(rows) - ends].mean(dim=0).float()
    return with_tensors(state, means)
