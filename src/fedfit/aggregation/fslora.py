"""FSLoRA: each device trains a random part of the rank, drawn anew in each round.

"Federated Sketching LoRA: On-Device Collaborative Fine-Tuning of Large Language Models", arXiv 2501.19389. The server keeps
rank r. In each round device i gets ``I_i ⊂ {0..r−1}`` of size k_i, drawn uniformly without replacement:

    S_i = (r/k_i) Σ_{j∈I_i} e_j e_jᵀ,   E[S_i] = identity,   local loss ℓ(W0 + s·B·S_i·A)
    ∇_B = s·G·Aᵀ·S_i,   ∇_A = s·S_i·Bᵀ·G
    (B, A) += Σ p_i Δ_i, each Δ_i on its I_i,   head = Σ p_i head_i,   p_i = 1/|S_t| unless the recipe weighs by samples

S_t being the devices whose update came and counted.

``s·B·S_i·A = (s·r/k_i)·B[:, I_i]·A[I_i, :]``: the device trains an ordinary adapter of rank k_i and scale s·r/k_i. The server
draws I_i from the dispatch's seed, and again when the update is back, so no index travels and both ways shrink to k_i/r.

AdamW divides the gradient by its own size: its steps do not see the r/k_i of ∇_B and ∇_A; only the forward pass keeps it.
The paper's theory is one of SGD, also with momentum. Weight decay shrinks the rows that a device holds, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.randomness import derive_seed
from fedfit.records import AdapterSize, Factors, Update


class FsLora(FedAvg):
    """Mean of what the devices changed, over all sampled devices: a row that a device did not hold counts as unchanged.

    With k_i = r for all this is FedAvg to the bit.

    Args:
        per_module: every module has an index set of its own, or all share one. The paper is open here.
    """

    mixed_ranks = True
    uniform = True

    def __init__(self, per_module: bool = True) -> None:
        self._per_module = per_module

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        """``A[I, :]`` ``(k, input)`` and ``B[:, I]`` ``(output, k)``, I ascending, at scale s·r/k; the state itself at k = r.

        Only the rank of ``size`` counts: s is the scale of the state.

        Raises:
            ValueError: for a rank below 1 or above the global one.
        """
        if all(len(pair.a) == size.rank for pair in state.factors.values()):
            return state
        return Update({name: self._cut(pair, size.rank, seed, name) for name, pair in state.factors.items()}, state.head)

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The weighted mean in float64, as FedAvg has it; rows and columns outside I_i are those of ``state``.

        Raises:
            ValueError: for an update without an origin, as its index sets cannot be drawn again.
        """
        total = 0.0
        sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in named_tensors(state).items()}
        held = {name: torch.zeros(len(pair.a), dtype=torch.float64) for name, pair in state.factors.items()}
        for update in updates:
            total += update.weight
            self._add(sums, held, update)
            del update  # before the next is made: one update in memory
        if total == 0.0:
            return state
        for name, pair in state.factors.items():
            rest = total - held[name]  # the weight of those that did not hold a row; 0 to the bit where all did
            sums[f"{name} A"].add_(pair.a.double() * rest[:, None])
            sums[f"{name} B"].add_(pair.b.double() * rest)
        return with_tensors(state, {name: accumulated.div_(total).float() for name, accumulated in sums.items()})

    def _cut(self, pair: Factors, count: int, seed: int, name: str) -> Factors:
        chosen = self._sketch(seed, name, len(pair.a), count)
        return Factors(pair.a[chosen], pair.b[:, chosen], pair.scale * (len(pair.a) / count))

    def _add(self, sums: dict[str, Tensor], held: dict[str, Tensor], update: Update) -> None:
        if update.origin is None:
            raise ValueError("an update without an origin: its sketch cannot be drawn again")
        weight = update.weight
        for name, pair in update.factors.items():
            chosen = self._sketch(update.origin.seed, name, len(held[name]), len(pair.a))
            held[name][chosen] += weight
            _add_at(sums[f"{name} A"], 0, chosen, pair.a, weight)
            _add_at(sums[f"{name} B"], 1, chosen, pair.b, weight)
        for name, tensor in update.head.items():
            sums[f"head {name}"].add_(tensor.double(), alpha=weight)

    def _sketch(self, seed: int, module: str, rank: int, count: int) -> Tensor:
        """``(count,)`` indices below ``rank``, ascending, a pure function of the arguments."""
        if not 1 <= count <= rank:
            raise ValueError(f"{module}: a sketch of {count} of {rank} rows; it takes 1 to {rank}")
        own = derive_seed(seed, "sketch", module) if self._per_module else derive_seed(seed, "sketch")
        return torch.from_numpy(np.sort(np.random.default_rng(own).permutation(rank)[:count]))


def _add_at(total: Tensor, dim: int, chosen: Tensor, part: Tensor, weight: float) -> None:
    """``total[chosen] += weight · part`` along ``dim``, by FedAvg's own ``add_``: its bits are what equal ranks must give."""
    total.index_copy_(dim, chosen, total.index_select(dim, chosen).add_(part.double(), alpha=weight))
