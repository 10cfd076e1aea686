"""Krum: the one update that is nearest to its neighbours, in place of the mean.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017. Of a round's updates
x_1 … x_n, f of which may be byzantine,

    score(i) = Σ ‖x_i - x_j‖² over the n - f - 2 other updates j that are nearest to x_i
    x ← the x_i of the least score,   n ≥ 2f + 3

The norm is over all factors and the head together. Every update counts the same: a device states its own weight, and a
byzantine one would state a large one. Of equal scores the lowest device's wins, as in the paper; with n = 3 and f = 0 two
always are.

Memory: all updates of a round. Time: every pair of them is compared, ``n²/2`` passes over an adapter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fedfit.aggregation.contract import Context, Rule, RuleEntry, ServerHalf, Traits
from fedfit.aggregation.rules.byzantine import mean_faults
from fedfit.core.update import ServerState, Update, named_tensors, with_tensors
from fedfit.errors import Fault, TrainingStopped
from fedfit.schema import key
from fedfit.settings import Recipe


@dataclass(frozen=True)
class KrumKeys:
    """Krum: one update of a round, chosen by its neighbours."""

    byzantine: int = key(1, "f: how many updates of a round may be byzantine, of at least 2f + 3", minimum=0)


def apply(keys: KrumKeys, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """A copy of the chosen update.

    Raises:
        TrainingStopped: when there are updates, but fewer than 2f + 3: then nothing holds against f of them.
    """
    received, needed = list(updates), 2 * keys.byzantine + 3
    if not received:
        return state
    if len(received) < needed:
        raise TrainingStopped(
            f"krum with byzantine = {keys.byzantine} needs {needed} updates in a round, and had {len(received)}; "
            "lower federation.krum.byzantine, or raise federation.devices_per_round"
        )
    received.sort(key=lambda update: -1 if update.origin is None else update.origin.device)
    distances = square_distances([named_tensors(update) for update in received])
    last = len(received) - keys.byzantine - 1
    scores = [math.fsum(sorted(row)[1:last]) for row in distances]  # the first is the 0 to itself
    chosen = received[scores.index(min(scores))]
    copies = {name: tensor.clone() for name, tensor in named_tensors(chosen).items()}
    return ServerState(with_tensors(state.adapter, copies))


def square_distances(rows: Sequence[dict[str, Tensor]]) -> list[list[float]]:
    """``‖x_i - x_j‖²`` of every pair, as its definition says: by a product of all rows close updates would cancel."""
    distances = [[0.0] * len(rows) for _ in rows]
    for (i, one), (j, other) in itertools.combinations(enumerate(rows), 2):
        squares = (float((tensor.double() - other[name]).square().sum()) for name, tensor in one.items())
        distances[i][j] = distances[j][i] = math.fsum(squares)
    return distances


def faults(recipe: Recipe, keys: KrumKeys) -> Iterator[Fault]:
    """Too few devices a round."""
    yield from mean_faults(recipe, weighs=False)
    least = 2 * keys.byzantine + 3
    if recipe.federation.devices_per_round < least:
        remedy = (
            f"krum then needs at least 2·{keys.byzantine} + 3 = {least} devices a round, and "
            f"federation.devices_per_round = {recipe.federation.devices_per_round}; raise that, or lower it"
        )
        yield Fault("federation.krum.byzantine", keys.byzantine, remedy)


def make(keys: KrumKeys, context: Context) -> Rule:
    """One update of a round, without weights."""
    return Rule(Traits(linear=False), ServerHalf(partial(apply, keys)))


ENTRY = RuleEntry(make, KrumKeys, faults)
