"""HetLoRA: devices hold the first rows of the global adapter, and weigh by the size of what they learned.

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

Rank self-pruning, with ``federation.pruning`` below 1, is in ``hetlora_pruning``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import AdapterSize, Factors, Update


class HetLora(FedAvg):
    """Truncation on the way down, zero-padding and a mean weighted by the norm of the product on the way up."""

    mixed_ranks = True
    uniform = True

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        """The first ``size.rank`` rows of A and columns of B, at the scale of the state; the state itself at the global rank.

        The scale of ``size`` does not count. Padding is the inverse of truncation only at one scale for both:
        ``s·pad(B_i)·pad(A_i)`` is what the device trained, and α/r_i there would come back as another model.

        Raises:
            ValueError: for a rank below 1 or above the global one.
        """
        if all(len(pair.a) == size.rank for pair in state.factors.values()):
            return state
        return Update({name: truncated(pair, size.rank, name) for name, pair in state.factors.items()}, state.head)

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """Summed in float64 as updates come, and divided by the sum of the weights at the end: one update in memory."""
        total, by_norm = 0.0, False
        sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in named_tensors(state).items()}
        for update in updates:
            norm = product_norm(update)
            if norm > 0 and not by_norm:  # all before it were zero, and count nothing from now on
                total, by_norm = 0.0, True
                for accumulated in sums.values():
                    accumulated.zero_()
            share = update.weight * (norm if by_norm else 1.0)
            total += share
            _add_padded(sums, update, share)
            del update  # before the next is made: one update in memory
        if total == 0.0:
            return state
        return with_tensors(state, {name: accumulated.div_(total).float() for name, accumulated in sums.items()})


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


def _add_padded(sums: dict[str, Tensor], update: Update, share: float) -> None:
    for name, pair in update.factors.items():
        rank = len(pair.a)
        sums[f"{name} A"][:rank].add_(pair.a.double(), alpha=share)
        sums[f"{name} B"][:, :rank].add_(pair.b.double(), alpha=share)
    for name, tensor in update.head.items():
        sums[f"head {name}"].add_(tensor.double(), alpha=share)
