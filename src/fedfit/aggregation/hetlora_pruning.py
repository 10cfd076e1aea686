"""HetLoRA with rank self-pruning: a device whose last rows have shrunk goes on without them.

Cho et al., EMNLP 2024, arXiv 2401.06432 (the mean is in ``hetlora``). A device of rank r trains with a penalty on its tail, and
gives the tail up when its own training has made it smaller:

    loss + λ Σ ‖B[:, f:]‖·‖A[f:]‖,   f = ⌊γ·r⌋;   r ← f  where  Σ ‖B[:, f:]‖·‖A[f:]‖  is below what it was when it was sent

summed over the modules, whose common rank it is. One row is always kept. The server sends a device that was pruned its new rank
from then on; a round that does not count does not prune.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from fedfit.aggregation.hetlora import HetLora, truncated
from fedfit.records import AdapterSize, Memory, Penalty, ServerState, Task, Update

_ROUNDING = 1e-9  # 0.29 · 100 is a little below 29 in floating point


class PruningHetLora(HetLora):
    """The state counts each pruned device's rank, ``rank <device>``.

    Args:
        gamma: γ, the share of the rank that a pruning keeps, below 1.
        strength: λ.
    """

    keeps_pair = False  # the state is more than the pair

    def __init__(self, gamma: float = 0.99, strength: float = 0.01) -> None:
        self._gamma, self._strength = gamma, strength

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """Nobody pruned."""
        return ServerState(adapter)

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:  # type: ignore[override]
        """The adapter at another rank; devices keep theirs."""
        return replace(state, adapter=super().resize(state.adapter, size, seed))

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:  # type: ignore[override]
        """The first rows, up to what is left of the device's rank."""
        rank = min(size.rank, int(state.numbers.get(f"rank {device}", size.rank)))
        return super().dispatch(state.adapter, device, AdapterSize(rank, size.scale), seed)

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What was sent, with the penalty on its tail."""
        return Task(received, penalty=Penalty(self._strength, self._kept(received)))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained, without its tail where that has shrunk; the metric ``pruned`` then says so."""
        kept = self._kept(task.update)
        if tail(trained, kept) < tail(task.update, kept):
            trained = replace(_first(trained, kept), metrics={**trained.metrics, "pruned": 1})
        return trained, None

    def expected(self, sent: Update, came: Update) -> Update:
        """What was sent, or that without its tail."""
        kept = self._kept(sent)
        pruned = all(pair.a.shape[:1] == (kept,) for pair in came.factors.values())
        return _first(super().expected(sent, came), kept) if pruned else super().expected(sent, came)

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:  # type: ignore[override]
        """HetLoRA's mean, and the ranks of those that were pruned; a plan may have given others less for this round alone."""
        ranks: dict[str, float] = {}

        def watch(update: Update) -> Update:
            if update.origin is not None and update.metrics.get("pruned"):
                ranks[f"rank {update.origin.device}"] = _rank(update)
            return update

        mean = super().apply(state.adapter, map(watch, updates))
        return state if mean is state.adapter else ServerState(mean, numbers={**state.numbers, **ranks})

    def adapter(self, state: ServerState) -> Update:  # type: ignore[override]
        """The global adapter."""
        return state.adapter

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """The metric ``pruned``: one word in the header."""
        return 16

    def _kept(self, update: Update) -> int:
        return max(1, math.floor(self._gamma * _rank(update) + _ROUNDING))


def tail(update: Update, first: int) -> float:
    """``Σ ‖B[:, first:]‖·‖A[first:]‖`` over the modules, in float64."""
    pairs = update.factors.values()
    return sum(float(pair.b[:, first:].double().norm() * pair.a[first:].double().norm()) for pair in pairs)


def _first(update: Update, rank: int) -> Update:
    return replace(update, factors={name: truncated(pair, rank, name) for name, pair in update.factors.items()})


def _rank(update: Update) -> int:
    return max(len(pair.a) for pair in update.factors.values())
