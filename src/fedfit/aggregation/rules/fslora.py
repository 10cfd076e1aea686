"""FSLoRA: each device trains a random part of the rank, drawn anew in each round.

"Federated Sketching LoRA: On-Device Collaborative Fine-Tuning of Large Language Models", arXiv 2501.19389. The server keeps
rank r. In each round device i gets ``I_i ⊂ {0..r−1}`` of size k_i, drawn uniformly without replacement:

    S_i = (r/k_i) Σ_{j∈I_i} e_j e_jᵀ,   E[S_i] = identity,   local loss ℓ(W0 + s·B·S_i·A)
    ∇_B = s·G·Aᵀ·S_i,   ∇_A = s·S_i·Bᵀ·G
    (B, A) += Σ p_i Δ_i, each Δ_i on its I_i,   head = Σ p_i head_i,   p_i = 1/|S_t| unless the recipe weighs by samples

S_t being the devices whose update counted.

``s·B·S_i·A = (s·r/k_i)·B[:, I_i]·A[I_i, :]``: the device trains an ordinary adapter of rank k_i and scale s·r/k_i. The server
draws I_i from the dispatch's seed, and again when the update is back, so no index travels and both ways shrink to k_i/r.

AdamW divides the gradient by its own size: its steps do not see the r/k_i of ∇_B and ∇_A; only the forward pass keeps it.
The paper's theory is one of SGD, also with momentum. Weight decay shrinks the rows that a device holds, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, Rule, RuleEntry, ServerHalf, Traits
from fedfit.aggregation.weighted_mean import Rows, weighted_mean
from fedfit.core.update import AdapterSize, Factors, ServerState, Update
from fedfit.randomness import derive_seed
from fedfit.schema import key


@dataclass(frozen=True)
class FsLoraKeys:
    """Federated Sketching LoRA."""

    sketch: str = key(
        "per_module",
        "how the rows of a device are drawn: a set of its own for every module, or one `shared` by all; the paper is open here",
        choices=("per_module", "shared"),
    )


def dispatch(keys: FsLoraKeys, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """``A[I, :]`` ``(k, input)`` and ``B[:, I]`` ``(output, k)``, I ascending, at scale s·r/k; the adapter itself at k = r.

    Only the rank of ``size`` counts: s is the scale of the state.

    Raises:
        ValueError: for a rank below 1 or above the global one.
    """
    pairs = state.adapter.factors
    if all(len(pair.a) == size.rank for pair in pairs.values()):
        return state.adapter
    return state.adapter.with_factors({name: _cut(keys, pair, size.rank, seed, name) for name, pair in pairs.items()})


def apply(keys: FsLoraKeys, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """Mean of what the devices changed, over all sampled devices: rows and columns outside I_i count as unchanged.

    Raises:
        ValueError: for an update without an origin, as its index sets cannot be drawn again.
    """
    ranks = {name: len(pair.a) for name, pair in state.adapter.factors.items()}

    def held(update: Update) -> Rows:
        if update.origin is None:
            raise ValueError("an update without an origin: its sketch cannot be drawn again")
        seed = update.origin.seed
        return {name: sketch(keys, seed, name, ranks[name], len(pair.a)) for name, pair in update.factors.items()}

    mean = weighted_mean(updates, state.adapter, rows=held, keep_unheld=True)
    return state if mean is None else ServerState(mean, state.tensors, state.numbers)


def sketch(keys: FsLoraKeys, seed: int, module: str, rank: int, count: int) -> Tensor:
    """``(count,)`` indices below ``rank``, ascending, a pure function of the arguments.

    Raises:
        ValueError: for a count below 1 or above ``rank``.
    """
    if not 1 <= count <= rank:
        raise ValueError(f"{module}: a sketch of {count} of {rank} rows; it takes 1 to {rank}")
    own = derive_seed(seed, "sketch", module) if keys.sketch == "per_module" else derive_seed(seed, "sketch")
    return torch.from_numpy(np.sort(np.random.default_rng(own).permutation(rank)[:count]))


def _cut(keys: FsLoraKeys, pair: Factors, count: int, seed: int, name: str) -> Factors:
    chosen = sketch(keys, seed, name, len(pair.a), count)
    return Factors(pair.a[chosen], pair.b[:, chosen], pair.scale * (len(pair.a) / count))


def make(keys: FsLoraKeys, context: Context) -> Rule:
    """FSLoRA. With k_i = r for all it is FedAvg to the bit."""
    server = ServerHalf(partial(apply, keys), dispatch=partial(dispatch, keys))
    return Rule(Traits(needs="pairs", mixed_ranks=True, uniform=True), server)


ENTRY = RuleEntry(make, FsLoraKeys)
