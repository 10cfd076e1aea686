"""FLoRA: devices' factors are stacked, and the stack is merged into the frozen weights.

Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024,
arXiv 2409.05976. In each round device i trains a pair of its own rank r_i from a fresh start, A_i random and B_i = 0:

    A = [p_1 s_1 A_1; …; p_I s_I A_I],   B = [B_1, …, B_I],   W0 ← W0 + B·A,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact for any ranks: ``B·A = Σ p_i s_i B_iA_i``. No factor survives its round. So the adapter of the global model is zero, and
all that was learned is in the weights: what is saved at the end is that difference, as factors of the rank that it has.

Up come A_i, B_i and the head; down goes the stack of rank Σr_i, or the whole difference where that is smaller or a device lacks
more than one round (``merged_base``). Fresh factors are not sent: the device draws A_i from the seed that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from fedfit.aggregation.gather import gather
from fedfit.aggregation.merged_base import MergingRule, catch_up, merge, received_base
from fedfit.aggregation.resize import fresh_rows
from fedfit.randomness import derive_seed
from fedfit.records import AdapterSize, Factors, Memory, ServerState, Task, Update


class Flora(MergingRule):
    """Stacking. Memory: a round's factors until the last is there, ``Σr_i·(d + k)`` numbers a module, and ``d·k`` for ΔW; each
    device keeps the latter as well."""

    mixed_ranks = True
    known = frozenset({"a", "b"})

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """Nothing merged; a B that is not zero is merged first, since no device starts from it."""
        fresh = _fresh(adapter)
        if not any(pair.b.any() for pair in adapter.factors.values()):
            return ServerState(fresh)
        steps = {name: Factors(pair.a * pair.scale, pair.b, 1.0) for name, pair in adapter.factors.items()}
        return merge(ServerState(fresh), steps, fresh)

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:  # type: ignore[override]
        """A fresh pair of the device's rank, and what its weights lack."""
        extra, metrics = catch_up(state, device)
        metrics |= {"rank": size.rank, "seed": seed}
        start = {name: _start(pair, size, seed, name) for name, pair in state.adapter.factors.items()}
        return Update(start, state.adapter.head, metrics=metrics, extra=extra)

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """The pair that the server has in mind, drawn anew, over the device's merged weights."""
        rank, seed = int(received.metrics["rank"]), int(received.metrics["seed"])
        factors = {name: _start(pair, AdapterSize(rank, pair.scale), seed, name) for name, pair in received.factors.items()}
        return Task(replace(received, factors=factors), received_base(received, memory))

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:  # type: ignore[override]
        """Stacks what comes, and merges it."""
        gathered = gather(updates, state.adapter)
        if gathered is None:
            return state
        steps = {name: _stacked(pairs) for name, pairs in gathered.pairs.items()}
        return merge(state, steps, replace(state.adapter, head=gathered.head), gathered.devices)


def _stacked(pairs: list[tuple[float, Factors]]) -> Factors:
    """``A (n, input)`` and ``B (output, n)`` of rank n = Σr_i; weights and scales are in A."""
    rows = [(pair.a.double() * (share * pair.scale)).to(pair.a.dtype) for share, pair in pairs]
    return Factors(torch.cat(rows), torch.cat([pair.b for _, pair in pairs], dim=1), 1.0)


def _start(pair: Factors, size: AdapterSize, seed: int, name: str) -> Factors:
    a = fresh_rows(pair.a, size.rank, derive_seed(seed, "fresh", name))
    return Factors(a, pair.b.new_zeros(len(pair.b), size.rank), size.scale)


def _fresh(adapter: Update) -> Update:
    return replace(adapter, factors={n: replace(pair, b=torch.zeros_like(pair.b)) for n, pair in adapter.factors.items()})
