"""Robust means by coordinate: the median, and the mean without the ends.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv 1803.01498. Of the n
values that a coordinate of a factor or of the head has in a round's updates,

    median        the middle one, or the mean of the two middle ones for even n
    trimmed_mean  the mean of all but the k largest and the k smallest,   k = ⌈βn⌉,   k < n/2

Every update counts the same, as in the paper: a device states its own weight, and a byzantine one would state a large one. Of
updates that are fewer than half, or than the share that is cut, none can move a coordinate out of the range of the others.

Memory: all updates of a round, and one tensor of all of them in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fedfit.aggregation.contract import Context, Rule, RuleEntry, ServerHalf, Traits, entry_of
from fedfit.aggregation.rules.byzantine import mean_faults
from fedfit.core.update import ServerState, Update, named_tensors, with_tensors
from fedfit.errors import Fault
from fedfit.schema import key
from fedfit.settings import Recipe

_ROUNDING = 1e-9  # 0.28 · 25 is above 7


@dataclass(frozen=True)
class TrimmedMeanKeys:
    """Coordinate-wise mean without the ends."""

    trim: float = key(0.1, "β: share of the updates cut at each end of every coordinate; below 0.5", minimum=0, maximum=0.4999)


def median(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The coordinate-wise median, without weights. Fewer than half of the updates, however wild, leave it among the others."""
    return _by_coordinate(state, list(updates), lambda count: (count - 1) // 2)


def trimmed_mean(share: float, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The coordinate-wise mean without the ends, and without weights.

    The cut is rounded up: of ten updates ``share = 0.15`` cuts two at each end, and of three 0.1 cuts one. Rounded down it
    would be a plain mean as soon as a few devices drop out. Of one or two updates nothing can be cut.
    """
    return _by_coordinate(state, list(updates), lambda count: cut(share, count))


def cut(share: float, count: int) -> int:
    """Updates cut at each end, of ``count``."""
    return min(math.ceil(share * count - _ROUNDING), (count - 1) // 2)


def _by_coordinate(state: ServerState, updates: Sequence[Update], cut: Callable[[int], int]) -> ServerState:
    """Each coordinate sorted over the updates, ``cut(n)`` values taken off at each end, and the mean of the rest."""
    if not updates:
        return state
    rows, ends = [named_tensors(update) for update in updates], cut(len(updates))
    means = {}
    for name in rows[0]:
        ordered = torch.stack([row[name].double() for row in rows]).sort(dim=0).values
        means[name] = ordered[ends : len(rows) - ends].mean(dim=0).float()
    return ServerState(with_tensors(state.adapter, means))


_TRAITS = Traits(linear=False)

MEDIAN = Rule(_TRAITS, ServerHalf(median))


def _make_trimmed(keys: TrimmedMeanKeys, context: Context) -> Rule:
    return Rule(_TRAITS, ServerHalf(lambda state, updates: trimmed_mean(keys.trim, state, updates)))


def faults(recipe: Recipe, keys: object) -> Iterator[Fault]:
    """Faults of a mean without weights."""
    yield from mean_faults(recipe, weighs=False)


MEDIAN_ENTRY = RuleEntry(entry_of(MEDIAN).make, faults=faults)
TRIMMED_MEAN_ENTRY = RuleEntry(_make_trimmed, TrimmedMeanKeys, faults)
