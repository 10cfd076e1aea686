"""Norm bound: FedAvg of updates that may each move by so much and no more.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963. With x the global adapter and x_i an update,

    x ← x + Σ p_i (x_i - x) / max(1, ‖x_i - x‖ / M),   p_i = n_i / Σ n_j

The norm is over all factors and the head together. Weights stay, as in the paper: a device moves x by at most ``p_i·M``, so one
that claims too many samples moves it further; ``weighting = "uniform"`` holds each to M/n. The paper's noise is left out.

Memory: one update at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from fedfit.aggregation.contract import Context, Rule, RuleEntry, ServerHalf, Traits
from fedfit.aggregation.weighted_mean import average
from fedfit.core.update import ServerState, Update, named_tensors, with_tensors
from fedfit.errors import Fault
from fedfit.schema import key
from fedfit.settings import Recipe


@dataclass(frozen=True)
class NormBoundKeys:
    """FedAvg of updates that may each move by at most a norm."""

    bound: float | None = key(None, "M: the largest norm of a whole update's move; must be given", above=0)


def apply(bound: float, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The weighted mean of the clipped updates; one update is in memory at a time. An infinite bound is FedAvg to the bit."""
    return average(state, map(partial(_clipped, bound, state.adapter), updates))


def _clipped(bound: float, adapter: Update, update: Update) -> Update:
    start = named_tensors(adapter)
    change = {name: tensor.double() - start[name] for name, tensor in named_tensors(update).items()}
    norm = math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in change.values()))
    if norm <= bound:
        return update
    shorter = {name: start[name] + tensor * (bound / norm) for name, tensor in change.items()}
    return replace(with_tensors(adapter, shorter), weight=update.weight)


def faults(recipe: Recipe, keys: NormBoundKeys) -> Iterator[Fault]:
    """A bound that is not given."""
    if keys.bound is None:
        yield Fault(
            "federation.norm_bound.bound",
            None,
            "norm_bound needs the norm that a whole update may move by, for example federation.norm_bound.bound=1.0",
        )


def make(keys: NormBoundKeys, context: Context) -> Rule:
    """FedAvg, weights included, of clipped updates."""
    return Rule(Traits(linear=False), ServerHalf(partial(apply, math.inf if keys.bound is None else keys.bound)))


ENTRY = RuleEntry(make, NormBoundKeys, faults)
