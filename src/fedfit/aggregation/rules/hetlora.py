"""HetLoRA: devices hold the first rows of the global adapter, and weigh by the size of their product.

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024, arXiv 2401.06432.
Device i gets and trains the first r_i rows of A and columns of B; the server pads them with zeros to the global rank:

    A = Σ q_i pad(A_i),   B = Σ q_i pad(B_i),   head = Σ q_i head_i,   q_i = p_i n_i / Σ p_j n_j,   n_i = ‖s·B_iA_i‖_F

with p_i = 1: "sparsity-weighted aggregation". A recipe that asks for weights by samples gets p_i = the samples.

* The norm is that of the whole update: the root of the sum over modules of ``‖s·BA‖_F² = s²·trace((BᵀB)(AAᵀ))``.
* The weights are for all parts, the head as well. A device whose product is zero beside others that are not counts nothing;
  where all products are zero the weights are p_i alone.
* Biased as FedAvg is: ``Σ q_i B_iA_i − B·A = ½ Σ_ij q_i q_j (B_i − B_j)(A_i − A_j)``, padded.
* A row that no device of a round held becomes zero in A and in B, as the formula has it, and a pair of zeros gets no gradient:
  the rank is lost for good. Every round should have a device of the global rank.

Rank self-pruning is a rule of its own, in ``hetlora_pruning``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedfit.aggregation.contract import Rule, ServerHalf, Traits, entry_of
from fedfit.aggregation.weighted_mean import Rows, WeightedSum
from fedfit.core.update import AdapterSize, Factors, ServerState, Update


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The first ``size.rank`` rows of A and columns of B, at the scale of the state; the adapter itself at the global rank.

    The scale of ``size`` does not count. Padding is the inverse of truncation only at one scale for both:
    ``s·pad(B_i)·pad(A_i)`` is the trained product, and α/r_i would make another model of it.

    Raises:
        ValueError: for a rank below 1 or above the global one.
    """
    pairs = state.adapter.factors
    if all(len(pair.a) == size.rank for pair in pairs.values()):
        return state.adapter
    return state.adapter.with_factors({name: truncated(pair, size.rank, name) for name, pair in pairs.items()})


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The zero-padded mean, weighted by the norm of the product as well."""
    sums, by_norm = WeightedSum(state.adapter), False
    for update in updates:
        norm = product_norm(update)
        if norm > 0 and not by_norm:  # all before it were zero, and count nothing from now on
            sums.clear()
            by_norm = True
        sums.add(update, update.weight * (norm if by_norm else 1.0), _first_rows(update))
        del update  # before the next is made: one update in memory
    mean = sums.mean()
    return state if mean is None else ServerState(mean, state.tensors, state.numbers)


def _first_rows(update: Update) -> Rows:
    return {name: slice(0, len(pair.a)) for name, pair in update.factors.items()}


def product_norm(update: Update) -> float:
    """``√(Σ ‖s·B·A‖_F²)`` over the modules of ``update``, from Gram matrices ``(rank, rank)`` in float64."""
    squares = 0.0
    for pair in update.factors.values():
        a, b = pair.a.double(), pair.b.double()
        squares += pair.scale**2 * float(((b.t() @ b) * (a @ a.t())).sum())
    return math.sqrt(max(squares, 0.0))  # rounding can leave a little below zero


def truncated(pair: Factors, rank: int, name: str) -> Factors:
    """The first ``rank`` rows of A and columns of B, views, at the scale of ``pair``; ``name`` is for the error.

    Raises:
        ValueError: for a rank below 1 or above that of ``pair``.
    """
    if not 1 <= rank <= len(pair.a):
        raise ValueError(f"{name}: rank {rank} of a global adapter of rank {len(pair.a)}")
    return Factors(pair.a[:rank], pair.b[:, :rank], pair.scale)


TRAITS = Traits(needs="pairs", mixed_ranks=True, uniform=True, linear=False)

HETLORA = Rule(TRAITS, ServerHalf(apply, dispatch=dispatch))
"""Truncation on the way down, zero-padding and a mean weighted by the norm of the product on the way up."""

ENTRY = entry_of(HETLORA)
