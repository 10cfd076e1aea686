"""Krum: the one update that is nearest to its neighbours, in place of the mean.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017. Of a round's updates
x_1 … x_n, f of which may be wild,

    score(i) = Σ ‖x_i - x_j‖² over the n - f - 2 other updates j that are nearest to x_i
    x ← the x_i of the least score,   n ≥ 2f + 3

The norm is over all factors and the head together. Every update counts the same: a weight is told by the device, and a wild one
would tell a large one. Of equal scores the lowest device's wins, as in the paper; with n = 3 and f = 0 two always are.

Memory: all updates of a round. Time: every pair of them is compared, ``n²/2`` passes over an adapter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.errors import TrainingStopped
from fedfit.records import Update


class Krum(FedAvg):
    """One update of a round, chosen by its neighbours, without weights.

    Args:
        suspected: f, how many of a round's updates may be wild.

    Raises:
        ValueError: for fewer than none.
    """

    def __init__(self, suspected: int = 1) -> None:
        if suspected < 0:
            raise ValueError(f"{suspected} suspected updates")
        self._suspected = suspected

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """A copy of the update that is chosen.

        Raises:
            TrainingStopped: when there are updates, but fewer than 2f + 3: then nothing holds against f of them.
        """
        received, needed = list(updates), 2 * self._suspected + 3
        if not received:
            return state
        if len(received) < needed:
            raise TrainingStopped(
                f"krum with suspected = {self._suspected} needs {needed} updates in a round, and {len(received)} came; "
                "lower federation.suspected, or raise federation.devices_per_round"
            )
        received.sort(key=lambda update: -1 if update.origin is None else update.origin.device)
        distances = _square_distances([named_tensors(update) for update in received])
        last = len(received) - self._suspected - 1
        scores = [math.fsum(sorted(row)[1:last]) for row in distances]  # the first is the 0 to itself
        chosen = received[scores.index(min(scores))]
        return with_tensors(state, {name: tensor.clone() for name, tensor in named_tensors(chosen).items()})


def _square_distances(rows: Sequence[dict[str, Tensor]]) -> list[list[float]]:
    """``‖x_i - x_j‖²`` of every pair, as its definition says: by a product of all rows close updates would cancel."""
    distances = [[0.0] * len(rows) for _ in rows]
    for (i, one), (j, other) in itertools.combinations(enumerate(rows), 2):
        squares = (float((tensor.double() - other[name]).square().sum()) for name, tensor in one.items())
        distances[i][j] = distances[j][i] = math.fsum(squares)
    return distances
