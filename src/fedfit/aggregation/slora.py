"""SLoRA: sparse training of the weights themselves first, LoRA from what they learned after.

Babakniya et al., "SLoRA: Federated Parameter Efficient Fine-Tuning of Language Models", 2023, arXiv 2308.06522. With M one
random mask for the whole run, of as many ones as the factors have numbers unless a density is set, and p_i = n_i / Σ n_j:

    rounds 1 … T_s   device trains W = W0 + M∘ΔW, and sends ΔW_i on M;   ΔW = Σ p_i ΔW_i
    between          U Σ Vᵀ = ΔW,   A0 = V_rᵀ,   B0 = U_r Σ_r / s
    after            FedAvg on A and B from there, over W0: what the rank r cannot hold of ΔW is dropped, as in the paper
    head             Σ p_i head_i in every round

Within a module each place is as likely as any; without a density a module has as many ones as its factors have numbers. The
mask is drawn from the recipe's seed on both sides, so values travel without their places: by default as many bytes as the
factors have, both ways.

Which of the two a round is goes by its number alone, failed rounds included. ΔW is decomposed when the first LoRA round begins;
should that round fail, the next one does it again from the same ΔW. Until then the global adapter is ΔW itself: a pair of full
rank, ``A`` the identity and ``B = ΔW`` at scale 1, which is also how devices train it. So the sparse rounds cost a device
``k·(d + k)`` numbers a module in memory, ``d·k`` for the mask and each moment of its optimiser, and the time of a dense
gradient, which plans do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.low_rank import nearest_factors
from fedfit.errors import UpdateRefused
from fedfit.randomness import derive_seed
from fedfit.records import PARTS, AdapterSize, Factors, Memory, ServerState, Task, Update


class Slora(FedAvg):
    """Mean of sparse changes of the weights, then FedAvg on the factors.

    The state's tensors are ``values <module>``, ``(nnz,)``: ΔW on the mask, row by row. They are there in the sparse rounds
    alone; the adapter is then the initial one, with the head of now.

    Args:
        seed: the recipe's; the mask is drawn from it.
        sparse_rounds: T_s.
        density: share of ones in the mask; ``None`` for as many ones as the factors have numbers.
    """

    fixed_rank = True
    keeps_pair = False

    def __init__(self, seed: int = 0, sparse_rounds: int = 2, density: float | None = None) -> None:
        self._seed, self._rounds, self._density = seed, sparse_rounds, density

    def trains(self, round_number: int) -> frozenset[str]:
        """B, which is ΔW, and the head; later everything."""
        return frozenset({"b", "head"}) if round_number <= self._rounds else PARTS

    def gets(self, round_number: int) -> frozenset[str]:
        """The head, beside the values; later everything."""
        return frozenset({"head"}) if round_number <= self._rounds else PARTS

    def sends(self, round_number: int) -> frozenset[str]:
        """What devices get."""
        return self.gets(round_number)

    def room(self, adapter: Update) -> int:
        """The most inputs that a module has."""
        return max((pair.a.shape[1] for pair in adapter.factors.values()), default=0)

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """ΔW is zero, or what ``adapter`` is already."""
        values = {_key(name): _product(pair).view(-1)[self._places(name, pair)] for name, pair in adapter.factors.items()}
        return ServerState(adapter, values)

    def begin(self, state: ServerState, round_number: int) -> ServerState:
        """With the first LoRA round, the factors of ΔW."""
        if round_number <= self._rounds or not state.tensors:
            return state
        dense = self.adapter(state).factors
        factors = {name: _decomposed(dense[name].b, pair) for name, pair in state.adapter.factors.items()}
        return ServerState(replace(state.adapter, factors=factors))

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:  # type: ignore[override]
        """The state as it is, at its own size.

        Raises:
            ValueError: for any other size.
        """
        if any(AdapterSize(len(pair.a), pair.scale) != size for pair in state.adapter.factors.values()):
            raise ValueError(f"the mask and the factors of ΔW have the rank of the first round; {size} is another")
        return state

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:  # type: ignore[override]
        """The values, of which there are none in the LoRA rounds, and the adapter: in the sparse ones the device has it."""
        return replace(super().dispatch(state.adapter, device, size, seed), extra=state.tensors)

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """ΔW as a pair whose gradient is masked; in the LoRA rounds what was sent.

        Raises:
            UpdateRefused: when there are other values than the mask has ones.
        """
        if not received.extra:
            return Task(received)
        wanted = {_key(name): (self._count(pair),) for name, pair in received.factors.items()}
        there = {name: tuple(tensor.shape) for name, tensor in received.extra.items()}
        if there != wanted:
            raise UpdateRefused(f"values: got {there}, wanted {wanted}")
        masks = {}
        for name, pair in received.factors.items():
            mask = torch.zeros(len(pair.b), pair.a.shape[1])
            mask.view(-1)[self._places(name, pair)] = 1
            masks[f"{name} B"] = mask
        return Task(self._dense(received, received.extra), mask=masks)

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """ΔW on the mask; in the LoRA rounds what was trained."""
        if not task.mask:
            return trained, None
        extra = {_key(name): pair.b[task.mask[f"{name} B"].bool()] for name, pair in trained.factors.items()}
        return replace(trained, extra=extra), None

    def expected(self, sent: Update, came: Update) -> Update:
        """As many values as were sent, at scale 1; in the LoRA rounds what was sent."""
        if not sent.extra:
            return sent
        return replace(sent, factors={name: replace(pair, scale=1.0) for name, pair in sent.factors.items()})

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:  # type: ignore[override]
        """FedAvg's mean, of values and head or of factors and head."""
        if not state.tensors:
            adapter = super().apply(state.adapter, updates)
            return state if adapter is state.adapter else ServerState(adapter)
        old = Update({}, {**state.adapter.head, **state.tensors})
        mean = super().apply(old, map(_bare, updates))
        if mean is old:
            return state
        head = {name: mean.head[name] for name in state.adapter.head}
        return ServerState(replace(state.adapter, head=head), {name: mean.head[name] for name in state.tensors})

    def adapter(self, state: ServerState) -> Update:  # type: ignore[override]
        """ΔW as a pair of full rank; in the LoRA rounds the factors."""
        return self._dense(state.adapter, state.tensors) if state.tensors else state.adapter

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """What the values take beyond the factors, in whose place they travel."""
        numbers = sum(pair.a.numel() + pair.b.numel() for pair in adapter.factors.values())
        return max(0, 4 * (sum(map(self._count, adapter.factors.values())) - numbers))

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """As many values travel back."""
        return self.extra_downlink_bytes(adapter)

    def _dense(self, initial: Update, values: Mapping[str, Tensor]) -> Update:
        """Identity and ΔW in place of each pair of ``initial``; off the mask ΔW is what that was: zero where it is fresh."""
        factors = {}
        for name, pair in initial.factors.items():
            change = _product(pair)
            change.view(-1)[self._places(name, pair)] = values[_key(name)]
            factors[name] = Factors(torch.eye(pair.a.shape[1], dtype=pair.a.dtype), change, 1.0)
        return Update(factors, initial.head)

    def _count(self, pair: Factors) -> int:
        whole = len(pair.b) * pair.a.shape[1]
        ones = pair.a.numel() + pair.b.numel() if self._density is None else round(self._density * whole)
        return min(max(1, ones), whole)

    def _places(self, name: str, pair: Factors) -> Tensor:
        return _places(derive_seed(self._seed, "sparse mask", name), len(pair.b) * pair.a.shape[1], self._count(pair))


@lru_cache(maxsize=256)
def _places(seed: int, entries: int, count: int) -> Tensor:
    """``(count,)`` of ``entries`` places, ascending; not to be written to."""
    chosen = np.random.default_rng(seed).choice(entries, count, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(chosen))


def _decomposed(change: Tensor, initial: Factors) -> Factors:
    """``V_rᵀ`` and ``U_r Σ_r / s``; where ``change`` has a lower rank, directions of the initial A and columns of zeros."""
    unit = initial.a / initial.a.norm(dim=1, keepdim=True)  # rows of this length are what A then has
    identity = torch.eye(change.shape[1], dtype=torch.float64)
    size = AdapterSize(len(initial.a), initial.scale)
    return nearest_factors(change.double(), identity, size, replace(initial, a=unit))


def _product(pair: Factors) -> Tensor:
    return (pair.b @ pair.a).mul_(pair.scale)


def _bare(update: Update) -> Update:
    """Values and head under names of their own, to be summed alike."""
    return Update({}, {**update.head, **update.extra}, update.weight)


def _key(module: str) -> str:
    return f"values {module}"
