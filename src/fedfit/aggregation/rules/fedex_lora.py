"""FedEx-LoRA: FedAvg of the factors, and its residual merged into the frozen weights.

Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language Models", 2024,
arXiv 2410.09432.

    A = Σ p_i A_i,   B = Σ p_i B_i,   W0 ← W0 + s(Σ p_i B_iA_i − B·A),   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact: ``W0 + s·B·A`` is then ``W0 + Σ p_i s·B_iA_i``. The residual is a covariance, ``Σ p_i (B_i − B)(A_i − A)``: the product
of the stacked ``[√p_i (B_i − B)]`` and ``[√p_i (A_i − A)]``, of rank (I − 1)·r at most, since weighted they sum to zero. It is
sent as factors of that rank (``merged_base``), beside the A and B of the next round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from fedfit.aggregation.contract import DeviceHalf, Rule, ServerHalf, Traits, entry_of, whole_adapter
from fedfit.aggregation.low_rank import product_factors
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
from fedfit.aggregation.weighted_mean import gather
from fedfit.core.update import AdapterSize, Factors, Job, Memory, ServerState, Update


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The adapter, and the part of the merged weights that the device lacks."""
    return catch_up(state, device, whole_adapter(state, device, size, seed))


def receive(received: Update, memory: Memory | None) -> Job:
    """The received update over the device's merged weights."""
    return Job(received.without(EXACT), received_delta(received, memory))


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The mean, summed in float64, and the residual of its product merged into the weights."""
    gathered = gather(updates, state.adapter)
    if gathered is None:
        return state
    means = {name: _mean(pairs) for name, pairs in gathered.pairs.items()}
    steps = {name: _residual(pairs, means[name]) for name, pairs in gathered.pairs.items()}
    return merge(state, steps, gathered.rest.with_factors(means), gathered.devices)


def _mean(pairs: list[tuple[float, Factors]]) -> Factors:
    a, b = (sum(share * getattr(pair, end).double() for share, pair in pairs) for end in "ab")
    like = pairs[0][1]
    return Factors(torch.as_tensor(a).to(like.a.dtype), torch.as_tensor(b).to(like.b.dtype), like.scale)


def _residual(pairs: list[tuple[float, Factors]], mean: Factors) -> Factors:
    """``s·Σ p_i (B_i − B)(A_i − A)`` as ``B (output, n) @ A (n, input)``, n its rank; summed in float64.

    The mean is the one in float32 that devices get: the rest of its rounding, ``Σp_iB_i − B``, is below what float32 holds.
    """
    a = torch.cat([(pair.a.double() - mean.a.double()) * math.sqrt(share) for share, pair in pairs])
    b = torch.cat([(pair.b.double() - mean.b.double()) * (math.sqrt(share) * mean.scale) for share, pair in pairs], dim=1)
    return product_factors(b, a, mean)


FEDEX_LORA = Rule(
    Traits(needs="pairs", supports_server_optimizer=False, linear=False, exact=EXACT),
    ServerHalf(apply, dispatch=dispatch, reply_forms=adapter_form, model=merged_model, downlink_extra_bytes=catch_up_bytes),
    DeviceHalf(receive, keep_delta),
)
"""Sample-weighted mean of factors and head; the residual goes into the weights. Memory: a round's factors until the last is
there, ``I·r·(d + k)`` numbers a module, and ``d·k`` for the merged weights; each device keeps the latter as well."""

ENTRY = entry_of(FEDEX_LORA)
