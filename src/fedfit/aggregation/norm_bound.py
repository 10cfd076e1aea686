"""Norm bound: FedAvg of updates that may each move by so much and no more.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963. With x the global adapter and x_i an update,

    x ← x + Σ p_i (x_i - x) / max(1, ‖x_i - x‖ / M),   p_i = n_i / Σ n_j

The norm is over all factors and the head together. Weights stay, as in the paper: a device moves x by at most ``p_i·M``, so one
that tells too many samples moves it further; ``weighting = "uniform"`` holds each to M/n. The paper's noise is left out.

Memory: one update at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import Update


class NormBound(FedAvg):
    """FedAvg, weights included, of updates that move by at most a norm; one update is in memory at a time.

    Args:
        bound: M, the largest norm of ``x_i - x``; infinite for FedAvg itself, to the bit.

    Raises:
        ValueError: for a bound that is not above 0.
    """

    def __init__(self, bound: float) -> None:
        if not bound > 0:
            raise ValueError(f"a norm bound of {bound}; it must be above 0")
        self._bound = bound

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The weighted mean of the clipped updates."""
        return super().apply(state, map(partial(self._clipped, state), updates))

    def _clipped(self, state: Update, update: Update) -> Update:
        start = named_tensors(state)
        change = {name: tensor.double() - start[name] for name, tensor in named_tensors(update).items()}
        norm = math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in change.values()))
        if norm <= self._bound:
            return update
        shorter = {name: start[name] + tensor * (self._bound / norm) for name, tensor in change.items()}
        return replace(with_tensors(state, shorter), weight=update.weight)
