"""FedEx-LoRA: FedAvg of the factors, and what it misses merged into the frozen weights.

Singhal et al., "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large Language Models", 2024,
arXiv 2410.09432.

    A = Σ p_i A_i,   B = Σ p_i B_i,   W0 ← W0 + s(Σ p_i B_iA_i − B·A),   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact: ``W0 + s·B·A`` is then ``W0 + Σ p_i s·B_iA_i``. The residual is a covariance, ``Σ p_i (B_i − B)(A_i − A)``: the product
of the stacked ``[√p_i (B_i − B)]`` and ``[√p_i (A_i − A)]``, of rank (I − 1)·r at most, since weighted they sum to zero. It is
sent as factors of that rank (``merged_base``), beside the A and B of the next round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.gather import gather
from fedfit.aggregation.low_rank import product_factors
from fedfit.aggregation.merged_base import base_of, catch_up, merge, received_base, remembered, whole_bytes
from fedfit.records import AdapterSize, Factors, Memory, ServerState, Task, Update


class FedExLora(FedAvg):
    """Sample-weighted mean of factors and head; the residual goes into the weights. Memory: a round's factors until the last is
    there, ``I·r·(d + k)`` numbers a module, and ``d·k`` for what is merged; each device keeps the latter as well."""

    keeps_pair = False  # a step from the mean would leave the residual behind

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """Nothing merged."""
        return ServerState(adapter)

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:  # type: ignore[override]
        """The nearest product of the new rank; what is merged stays."""
        return replace(state, adapter=super().resize(state.adapter, size, seed))

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:  # type: ignore[override]
        """A, B, the head, and what the device's weights lack."""
        extra, metrics = catch_up(state, device)
        return replace(super().dispatch(state.adapter, device, size, seed), extra=extra, metrics=metrics)

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What was sent, over the device's merged weights."""
        return Task(received, received_base(received, memory))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained; the device keeps its weights."""
        return trained, remembered(task.base, task.update)

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:  # type: ignore[override]
        """The mean, summed in float64, and the residual of its product."""
        gathered = gather(updates, state.adapter)
        if gathered is None:
            return state
        means = {name: _mean(pairs) for name, pairs in gathered.pairs.items()}
        steps = {name: _residual(pairs, means[name]) for name, pairs in gathered.pairs.items()}
        return merge(state, steps, Update(means, gathered.head), gathered.devices)

    def adapter(self, state: ServerState) -> Update:  # type: ignore[override]
        """The mean pair."""
        return state.adapter

    def base(self, state: ServerState) -> Mapping[str, Tensor]:
        """The sum of the residuals."""
        return base_of(state.tensors)

    def extra_bytes(self, adapter: Update) -> int:
        """The whole of what is merged."""
        return whole_bytes(adapter)


def _mean(pairs: list[tuple[float, Factors]]) -> Factors:
    a, b = (sum(share * getattr(pair, end).double() for share, pair in pairs) for end in "ab")
    like = pairs[0][1]
    return Factors(torch.as_tensor(a).to(like.a.dtype), torch.as_tensor(b).to(like.b.dtype), like.scale)


def _residual(pairs: list[tuple[float, Factors]], mean: Factors) -> Factors:
    """``s·Σ p_i (B_i − B)(A_i − A)`` as ``B (output, n) @ A (n, input)``, n its rank; summed in float64.

    The mean is the one in float32 that devices get: what its rounding leaves, ``Σp_iB_i − B``, is below what float32 holds.
    """
    a = torch.cat([(pair.a.double() - mean.a.double()) * math.sqrt(share) for share, pair in pairs])
    b = torch.cat([(pair.b.double() - mean.b.double()) * (math.sqrt(share) * mean.scale) for share, pair in pairs], dim=1)
    return product_factors(b, a, mean)
