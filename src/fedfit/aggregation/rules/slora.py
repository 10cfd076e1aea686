"""SLoRA: sparse training of the weights themselves first, LoRA from the result after.

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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, DeviceHalf, Rule, RuleEntry, ServerHalf, Traits, same_size, whole_adapter
from fedfit.aggregation.low_rank import nearest_factors
from fedfit.aggregation.weighted_mean import average, weighted_mean
from fedfit.core.update import (
    LORA_A,
    LORA_B,
    PAIRS,
    AdapterSize,
    Factors,
    Job,
    Memory,
    ServerState,
    Update,
    grouped,
    named_tensors,
)
from fedfit.errors import Fault, UpdateRefused
from fedfit.randomness import derive_seed
from fedfit.schema import key
from fedfit.settings import Recipe

_VALUES = "values"


@dataclass(frozen=True)
class SloraKeys:
    """SLoRA: sparse training of the weights first, LoRA after."""

    sparse_rounds: int = key(2, "T_s: first rounds, in which a random part of the weights themselves is trained", minimum=1)
    density: float | None = key(
        None, "share of the weights in that part; default as many as the factors have numbers", above=0, maximum=1
    )


@dataclass(frozen=True)
class Mask:
    """The random mask of one run, drawn from its ``seed`` on both sides. ``density`` is the share of ones; ``None`` for as many
    as the factors have numbers."""

    seed: int
    density: float | None

    def count(self, pair: Factors) -> int:
        """Ones in the mask of a module."""
        whole = len(pair.b) * pair.a.shape[1]
        ones = pair.a.numel() + pair.b.numel() if self.density is None else round(self.density * whole)
        return min(max(1, ones), whole)

    def places(self, name: str, pair: Factors) -> Tensor:
        """Their places in the flat weight, ascending; not to be written to."""
        seed = derive_seed(self.seed, "sparse mask", name)
        return _places(seed, len(pair.b) * pair.a.shape[1], self.count(pair))


@lru_cache(maxsize=256)
def _places(seed: int, entries: int, count: int) -> Tensor:
    chosen = np.random.default_rng(seed).choice(entries, count, replace=False, shuffle=False)
    return torch.from_numpy(np.sort(chosen))


@dataclass(frozen=True)
class Slora:
    """The rule's functions over one mask.

    The state's tensors are those of a group ``values``, ``(nnz,)`` by module: ΔW on the mask, row by row. They exist in the
    sparse rounds alone; the adapter is then the initial one, with the head of now.
    """

    mask: Mask
    rounds: int

    def recoded(self, round_number: int) -> frozenset[str]:
        """Both factors in the sparse rounds: values travel in their place."""
        return PAIRS if round_number <= self.rounds else frozenset()

    def frozen(self, round_number: int) -> frozenset[str]:
        """A in the sparse rounds: B is ΔW then, and A the identity."""
        return frozenset({LORA_A}) if round_number <= self.rounds else frozenset()

    def init(self, adapter: Update) -> ServerState:
        """ΔW is zero, or that of ``adapter``."""
        values = {name: _product(pair).view(-1)[self.mask.places(name, pair)] for name, pair in adapter.factors.items()}
        return ServerState(adapter, named_tensors(Update({_VALUES: values})))

    def begin(self, state: ServerState, round_number: int) -> ServerState:
        """With the first LoRA round, the factors of ΔW."""
        if round_number <= self.rounds or not state.tensors:
            return state
        dense = self.model(state).update.factors
        return ServerState(
            state.adapter.with_factors({name: _decomposed(dense[name].b, p) for name, p in state.adapter.factors.items()})
        )

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
        """The adapter, and the values in the sparse rounds."""
        return whole_adapter(state, device, size, seed).with_groups(grouped(state.tensors))

    def receive(self, received: Update, memory: Memory | None) -> Job:
        """ΔW as a pair whose gradient is masked; in the LoRA rounds the received update.

        Raises:
            UpdateRefused: when there are other values than the mask has ones.
        """
        values = received.groups.get(_VALUES)
        if not values:
            return Job(received)
        wanted = {name: (self.mask.count(pair),) for name, pair in received.factors.items()}
        found = {name: tuple(tensor.shape) for name, tensor in values.items()}
        if found != wanted:
            raise UpdateRefused(f"values: got {found}, wanted {wanted}")
        masks = {}
        for name, pair in received.factors.items():
            mask = torch.zeros(len(pair.b), pair.a.shape[1])
            mask.view(-1)[self.mask.places(name, pair)] = 1
            masks[f"{LORA_B}.{name}"] = mask
        return Job(self._dense(received.without({_VALUES}), values), mask=masks)

    def send(self, job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """ΔW on the mask; in the LoRA rounds the trained update."""
        if not job.mask:
            return trained, None
        values = {name: pair.b[job.mask[f"{LORA_B}.{name}"].bool()] for name, pair in trained.factors.items()}
        return trained.with_groups({_VALUES: values}), None

    def reply_forms(self, sent: Update) -> Sequence[Update]:
        """As many values as were sent, at scale 1; in the LoRA rounds the form of ``sent``."""
        return (replace(sent, scales=dict.fromkeys(sent.scales, 1.0)) if sent.groups.get(_VALUES) else sent,)

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """FedAvg's mean, of values and head or of factors and head."""
        if not state.tensors:
            return average(state, updates)
        mean = weighted_mean(updates, state.adapter.without(PAIRS).with_groups(grouped(state.tensors)))
        if mean is None:
            return state
        head = {name: tensors for name, tensors in mean.groups.items() if name != _VALUES}
        return ServerState(state.adapter.with_groups(head), named_tensors(mean.only({_VALUES})))

    def model(self, state: ServerState) -> Job:
        """ΔW as a pair of full rank; in the LoRA rounds the factors."""
        values = grouped(state.tensors).get(_VALUES)
        return Job(self._dense(state.adapter, values) if values else state.adapter)

    def max_rank(self, adapter: Update) -> int:
        """The most inputs that a module has."""
        return max((pair.a.shape[1] for pair in adapter.factors.values()), default=0)

    def extra_bytes(self, adapter: Update) -> int:
        """The bytes of the values beyond the factors, in whose place they travel."""
        numbers = sum(pair.a.numel() + pair.b.numel() for pair in adapter.factors.values())
        return max(0, 4 * (sum(map(self.mask.count, adapter.factors.values())) - numbers))

    def _dense(self, initial: Update, values: Mapping[str, Tensor]) -> Update:
        """Identity and ΔW in place of each pair; off the mask ΔW is that of ``initial``: zero where it is fresh."""
        factors = {}
        for name, pair in initial.factors.items():
            change = _product(pair)
            change.view(-1)[self.mask.places(name, pair)] = values[name]
            factors[name] = Factors(torch.eye(pair.a.shape[1], dtype=pair.a.dtype), change, 1.0)
        return replace(initial.with_factors(factors), weight=1.0, facts={})


def _decomposed(change: Tensor, initial: Factors) -> Factors:
    """``V_rᵀ`` and ``U_r Σ_r / s``; where ``change`` has a lower rank, directions of the initial A and columns of zeros."""
    unit = initial.a / initial.a.norm(dim=1, keepdim=True)  # rows of this length are what A then has
    identity = torch.eye(change.shape[1], dtype=torch.float64)
    size = AdapterSize(len(initial.a), initial.scale)
    return nearest_factors(change.double(), identity, size, replace(initial, a=unit))


def _product(pair: Factors) -> Tensor:
    return (pair.b @ pair.a).mul_(pair.scale)


def faults(recipe: Recipe, keys: SloraKeys) -> Iterator[Fault]:
    """Sparse rounds that leave none for the factors."""
    rounds = recipe.federation.rounds
    if keys.sparse_rounds >= rounds:
        remedy = f"federation.rounds = {rounds}, and the factors are trained after these; lower it, or raise rounds"
        yield Fault("federation.slora.sparse_rounds", keys.sparse_rounds, remedy)


def make(keys: SloraKeys, context: Context) -> Rule:
    """Mean of sparse changes of the weights, then FedAvg on the factors."""
    own = Slora(Mask(context.seed, keys.density), keys.sparse_rounds)
    server = ServerHalf(
        own.apply,
        own.init,
        own.begin,
        same_size,
        own.dispatch,
        own.reply_forms,
        own.model,
        own.max_rank,
        downlink_extra_bytes=own.extra_bytes,
        uplink_extra_bytes=own.extra_bytes,
    )
    traits = Traits(needs="pairs", fixed_rank=True, supports_server_optimizer=False, frozen=own.frozen, recoded=own.recoded)
    return Rule(traits, server, DeviceHalf(own.receive, own.send))


ENTRY = RuleEntry(make, SloraKeys, faults)
