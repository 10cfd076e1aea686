"""FLoRA: devices' factors are stacked, and the stack is merged into the frozen weights.

Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024,
arXiv 2409.05976. In each round device i trains a pair of its own rank r_i from a fresh start, A_i random and B_i = 0:

    A = [p_1 s_1 A_1; …; p_I s_I A_I],   B = [B_1, …, B_I],   W0 ← W0 + B·A,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact for any ranks: ``B·A = Σ p_i s_i B_iA_i``. No factor survives its round. So the adapter of the global model is zero, and
everything learned is in the weights: that difference is saved at the end, as factors of its own rank.

Up come A_i, B_i and the head; down goes the stack of rank Σr_i, or the whole difference where that is smaller or a device lacks
more than one round (``merged_base``). Fresh factors are not sent: the device draws A_i from the seed that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from fedfit.aggregation.contract import DeviceHalf, Rule, ServerHalf, Traits, entry_of
from fedfit.aggregation.merged_delta import (
    EXACT,
    adapter_form,
    catch_up,
    catch_up_bytes,
    keep_delta,
    merge,
    merged_model,
    received_delta,
)
from fedfit.aggregation.resize import fresh_rows
from fedfit.aggregation.weighted_mean import gather
from fedfit.core.checks import int_fact
from fedfit.core.update import PAIRS, AdapterSize, Factors, Job, Memory, ServerState, Update
from fedfit.randomness import derive_seed


def init(adapter: Update) -> ServerState:
    """Nothing merged; a B that is not zero is merged first, since no device starts from it."""
    fresh = _fresh(adapter)
    if not any(pair.b.any() for pair in adapter.factors.values()):
        return ServerState(fresh)
    steps = {name: Factors(pair.a * pair.scale, pair.b, 1.0) for name, pair in adapter.factors.items()}
    return merge(ServerState(fresh), steps, fresh)


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """A fresh pair of the device's rank, and the part of the merged weights that the device lacks."""
    start = {name: _start(pair, size, seed, name) for name, pair in state.adapter.factors.items()}
    sent = catch_up(state, device, state.adapter.with_factors(start))
    return replace(sent, facts={**sent.facts, "rank": size.rank, "seed": seed})


def receive(received: Update, memory: Memory | None) -> Job:
    """The pair that the server has in mind, drawn anew, over the device's merged weights."""
    rank, seed = int_fact(received, "rank"), int_fact(received, "seed")
    pairs = {name: _start(pair, AdapterSize(rank, pair.scale), seed, name) for name, pair in received.factors.items()}
    return Job(received.with_factors(pairs).without(EXACT), received_delta(received, memory))


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """Stacks the factors of all updates, and merges the stack."""
    gathered = gather(updates, state.adapter)
    if gathered is None:
        return state
    steps = {name: _stacked(pairs) for name, pairs in gathered.pairs.items()}
    return merge(state, steps, state.adapter.with_groups(gathered.rest.groups), gathered.devices)


def _stacked(pairs: list[tuple[float, Factors]]) -> Factors:
    """``A (n, input)`` and ``B (output, n)`` of rank n = Σr_i; weights and scales are in A."""
    rows = [(pair.a.double() * (share * pair.scale)).to(pair.a.dtype) for share, pair in pairs]
    return Factors(torch.cat(rows), torch.cat([pair.b for _, pair in pairs], dim=1), 1.0)


def _start(pair: Factors, size: AdapterSize, seed: int, name: str) -> Factors:
    a = fresh_rows(pair.a, size.rank, derive_seed(seed, "fresh", name))
    return Factors(a, pair.b.new_zeros(len(pair.b), size.rank), size.scale)


def _fresh(adapter: Update) -> Update:
    zeros = {name: replace(pair, b=torch.zeros_like(pair.b)) for name, pair in adapter.factors.items()}
    return replace(adapter.with_factors(zeros), weight=1.0, facts={})


FLORA = Rule(
    Traits(needs="pairs", mixed_ranks=True, supports_server_optimizer=False, linear=False, derivable=PAIRS, exact=EXACT),
    ServerHalf(
        apply,
        init=init,
        dispatch=dispatch,
        reply_forms=adapter_form,
        model=merged_model,
        downlink_extra_bytes=catch_up_bytes,
    ),
    DeviceHalf(receive, keep_delta),
)
"""Stacking. Memory: a round's factors until the last is there, ``Σr_i·(d + k)`` numbers a module, and ``d·k`` for ΔW; each
device keeps the latter as well."""

ENTRY = entry_of(FLORA)
