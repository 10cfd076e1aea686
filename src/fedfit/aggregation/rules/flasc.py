"""FLASC: dense training, sparse communication.

Kuo et al., "Federated LoRA with Sparse Communication", 2024, arXiv 2406.05233. With θ the factors of all modules as one flat
vector of n numbers, and top_d a vector in which all but its round(d·n) largest by magnitude are set to zero:

    device gets      P = top_d↓(θ), trains all n numbers from it to P_i
    device sends     top_d↑(Δ_i),   Δ_i = P_i - P
    server           θ ← θ + Σ p_i top_d↑(Δ_i),   head = Σ p_i head_i,   p_i = n_i / Σ n_j

A cut on the way down is for the device alone: the server keeps its θ. Numbers cut on the way up count as 0. The
paper's server takes the mean for a gradient and steps with Adam: that is ``federation.server_optimizer = "adam"``. There is no
error feedback, as in the paper. The head is sent whole, both ways.

With both densities 1 this is FedAvg but for rounding: the device rounds Δ_i to float32, and ``θ + (P_i - θ)`` need not be P_i.

On the wire the numbers that are not zero travel with their places, as a bitmap or as indices (``codecs.sparse``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, DeviceHalf, Rule, RuleEntry, ServerHalf, Traits, whole_adapter
from fedfit.aggregation.weighted_mean import weighted_mean
from fedfit.core.update import PAIRS, AdapterSize, Job, Memory, ServerState, Update, grouped, named_tensors
from fedfit.schema import key


@dataclass(frozen=True)
class FlascKeys:
    """FLASC: federated LoRA with sparse communication."""

    download_density: float = key(0.25, "share of the factors' numbers that a device is sent, the largest", above=0, maximum=1)
    upload_density: float = key(0.25, "share of its changes that a device sends, the largest", above=0, maximum=1)


def dispatch(keys: FlascKeys, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The largest numbers of the factors, and zeros.

    Raises:
        ValueError: when ``size`` is not that of the global adapter.
    """
    return _largest(whole_adapter(state, device, size, seed), keys.download_density)


def send(keys: FlascKeys, job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The head, and the largest changes of the factors."""
    start = named_tensors(job.update.only(PAIRS))
    changes = {name: tensor - start[name] for name, tensor in named_tensors(trained.only(PAIRS)).items()}
    return _largest(trained.with_groups(grouped(changes)), keys.upload_density), None


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The factors plus the weighted mean of their changes, in float64; the weighted mean of all other groups."""
    mean = weighted_mean(updates, _double_pairs(state.adapter))
    if mean is None:
        return state
    old = named_tensors(state.adapter.only(PAIRS))
    changes = named_tensors(mean.only(PAIRS))
    moved = {name: (tensor.double() + changes[name]).to(tensor.dtype) for name, tensor in old.items()}
    return ServerState(mean.with_groups(grouped(moved)))


def _double_pairs(adapter: Update) -> Update:
    """``adapter`` with its pairs in float64, so that their mean is as well: only the sum is rounded."""
    return adapter.with_groups(grouped({name: tensor.double() for name, tensor in named_tensors(adapter.only(PAIRS)).items()}))


def _largest(update: Update, density: float) -> Update:
    """``update`` with all but the largest numbers of its pairs set to zero, marked as sparse; at density 1 ``update``."""
    if density == 1:
        return update
    tensors = named_tensors(update.only(PAIRS))
    names = sorted(tensors)
    flat = torch.cat([tensors[name].reshape(-1) for name in names])
    kept = torch.zeros_like(flat)
    places = largest(flat, count_of(len(flat), density))
    kept[places] = flat[places]
    pieces = torch.split(kept, [tensors[name].numel() for name in names])
    cut = {name: piece.view(tensors[name].shape) for name, piece in zip(names, pieces, strict=True)}
    return replace(update.with_groups(grouped({name: cut[name] for name in tensors})), sparse=PAIRS)


def count_of(entries: int, density: float) -> int:
    """k: ``density`` of ``entries``, rounded, at least 1."""
    return max(1, round(density * entries))


def largest(vector: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` entries of ``vector`` ``(n,)`` that are largest by magnitude, ascending; of equals the first.

    NaN is larger than all: it is not hidden from a check of the update.
    """
    sizes = torch.where(vector.isnan(), torch.inf, vector.abs())
    bound = sizes.kthvalue(len(sizes) - count + 1).values
    chosen = sizes > bound
    equal = (sizes == bound).nonzero().squeeze(1)
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().squeeze(1)


def make(keys: FlascKeys, context: Context) -> Rule:
    """The server's dense factors plus the weighted mean of the sparse changes; weighted mean of the head."""
    server = ServerHalf(apply, dispatch=partial(dispatch, keys))
    traits = Traits(needs="pairs", downlink_density=keys.download_density, uplink_density=keys.upload_density)
    return Rule(traits, server, DeviceHalf(send=partial(send, keys)))


ENTRY = RuleEntry(make, FlascKeys)
