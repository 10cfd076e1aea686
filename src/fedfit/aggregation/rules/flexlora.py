"""FlexLoRA: devices of different ranks, averaged as products.

Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", NeurIPS 2024,
arXiv 2402.11505. A device gets the best factors of its rank of the global ``ΔW``, and trains them; the server does

    ΔW = Σ p_i s_i B_i A_i,   s·B·A = the nearest product of the global rank,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

The paper builds ``ΔW``. Here it stays in factors: the QR of the stacked ``[√p_i s_i B_i]`` and ``[√p_i A_i]`` and the SVD of a
core of size Σr_i give the same. Where Σr_i reaches min(d, k), ΔW is no larger than the stack, and is decomposed itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from fedfit.aggregation.contract import Context, Rule, RuleEntry, ServerHalf, Traits
from fedfit.aggregation.low_rank import nearest_factors
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.weighted_mean import gather
from fedfit.core.update import AdapterSize, Factors, ServerState, Update


class Cuts:
    """The best factors of a device's rank. Those of a lower rank are computed once for each state: no draw is in them."""

    def __init__(self) -> None:
        self._of: Update | None = None
        self._cuts: dict[AdapterSize, Update] = {}

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
        """See ``contract.ServerHalf``; the adapter that was cut last is held until another comes."""
        adapter = state.adapter
        if size.rank >= adapter.rank:
            return resize_update(adapter, size, seed)
        if self._of is not adapter:
            self._of, self._cuts = adapter, {}
        if size not in self._cuts:
            self._cuts[size] = resize_update(adapter, size, seed)
        return self._cuts[size]


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The mean of the products, cut to the rank and scale of ``state``; the mean of all other groups.

    Memory: the factors of a round's updates are kept until the last is there, ``Σr_i·(d + k)`` numbers a module. To cut the
    sum after each update would need one at a time, but the result would depend on the order, and small directions that many
    devices share would be lost.
    """
    gathered = gather(updates, state.adapter)
    if gathered is None:
        return state
    factors = {name: _mean_product(gathered.pairs[name], old) for name, old in state.adapter.factors.items()}
    return ServerState(gathered.rest.with_factors(factors))


def _mean_product(shares: list[tuple[float, Factors]], old: Factors) -> Factors:
    b = torch.cat([pair.b.double() * (math.sqrt(share) * pair.scale) for share, pair in shares], dim=1)
    a = torch.cat([pair.a.double() * math.sqrt(share) for share, pair in shares])
    return nearest_factors(b, a, AdapterSize(len(old.a), old.scale), old)


def make(keys: None, context: Context) -> Rule:
    """Sample-weighted mean of the products, cut to the global rank. Factors are made anew in every round."""
    traits = Traits(needs="pairs", mixed_ranks=True, supports_server_optimizer=False, linear=False)
    return Rule(traits, ServerHalf(apply, dispatch=Cuts().dispatch))


ENTRY = RuleEntry(make)
