"""HetLoRA with rank self-pruning: a device whose last rows have shrunk goes on without them.

Cho et al., EMNLP 2024, arXiv 2401.06432 (the mean is in ``hetlora``). A device of rank r trains with a penalty on its tail, and
gives the tail up when its own training has made it smaller:

    loss + λ Σ ‖B[:, f:]‖·‖A[f:]‖,   f = ⌊γ·r⌋;   r ← f  where  Σ ‖B[:, f:]‖·‖A[f:]‖  is smaller than in the received update

summed over the modules, whose common rank it is. One row is always kept. The server sends a device that was pruned its new rank
from then on; a round that does not count does not prune.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedfit.aggregation.contract import Context, DeviceHalf, Rule, RuleEntry, ServerHalf
from fedfit.aggregation.rules import hetlora
from fedfit.aggregation.rules.hetlora import truncated
from fedfit.core.update import AdapterSize, Job, Memory, Penalty, ServerState, Update
from fedfit.errors import Fault
from fedfit.schema import key
from fedfit.settings import Recipe

_ROUNDING = 1e-9  # 0.29 · 100 is a little below 29 in floating point


@dataclass(frozen=True)
class PruningKeys:
    """HetLoRA with rank self-pruning."""

    gamma: float = key(
        0.99, "γ: a device of rank r whose part beyond ⌊γr⌋ has shrunk goes on at rank ⌊γr⌋", above=0, maximum=0.9999
    )
    penalty: float = key(0.01, "λ, on the part beyond ⌊γr⌋", minimum=0)


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The first rows, up to the device's rank after its prunings."""
    rank = min(size.rank, int(state.numbers.get(f"rank {device}", size.rank)))
    return hetlora.dispatch(state, device, AdapterSize(rank, size.scale), seed)


def receive(keys: PruningKeys, received: Update, memory: Memory | None) -> Job:
    """The received update, with the penalty on its tail."""
    return Job(received, penalty=Penalty(keys.penalty, kept_rank(keys, received)))


def send(keys: PruningKeys, job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The trained update, without its tail where that has shrunk; the fact ``pruned`` then says so."""
    kept = kept_rank(keys, job.update)
    if tail(trained, kept) < tail(job.update, kept):
        trained = replace(_first(trained, kept), facts={**trained.facts, "pruned": True})
    return trained, None


def reply_forms(keys: PruningKeys, sent: Update) -> Sequence[Update]:
    """The form of ``sent``, or that without its tail."""
    return sent, _first(sent, kept_rank(keys, sent))


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """HetLoRA's mean, and the ranks of the pruned devices; a plan may have given others less for this round alone."""
    ranks: dict[str, int | float] = {}

    def watch(update: Update) -> Update:
        if update.origin is not None and update.facts.get("pruned"):
            ranks[f"rank {update.origin.device}"] = update.rank
        return update

    after = hetlora.apply(state, map(watch, updates))
    return state if after is state else replace(after, numbers={**state.numbers, **ranks})


def kept_rank(keys: PruningKeys, update: Update) -> int:
    """``⌊γr⌋``, at least 1."""
    return max(1, math.floor(keys.gamma * update.rank + _ROUNDING))


def tail(update: Update, first: int) -> float:
    """``Σ ‖B[:, first:]‖·‖A[first:]‖`` over the modules, in float64."""
    pairs = update.factors.values()
    return sum(float(pair.b[:, first:].double().norm() * pair.a[first:].double().norm()) for pair in pairs)


def _first(update: Update, rank: int) -> Update:
    return update.with_factors({name: truncated(pair, rank, name) for name, pair in update.factors.items()})


def faults(recipe: Recipe, keys: PruningKeys) -> Iterator[Fault]:
    """No plan knows of devices' shrinking ranks."""
    if recipe.plan.policy != "none":
        remedy = "no plan knows of the shrinking ranks of rule = 'hetlora_pruning'; set it to none, or rule to hetlora"
        yield Fault("plan.policy", recipe.plan.policy, remedy)


def make(keys: PruningKeys, context: Context) -> Rule:
    """HetLoRA whose state counts the rank of each pruned device, as ``rank <device>``."""
    server = ServerHalf(apply, dispatch=dispatch, reply_forms=partial(reply_forms, keys), uplink_extra_bytes=lambda adapter: 24)
    traits = replace(hetlora.TRAITS, supports_server_optimizer=False)
    return Rule(traits, server, DeviceHalf(partial(receive, keys), partial(send, keys)))


ENTRY = RuleEntry(make, PruningKeys, faults)
