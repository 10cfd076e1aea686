"""FedAvg over LoRA factors and head (FedIT).

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017; on LoRA factors:
Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP 2024.

    A = Σ p_i A_i,   B = Σ p_i B_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Biased: ``Σ p_i B_i · Σ p_i A_i ≠ Σ p_i B_i A_i``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.resize import resize_update
from fedfit.records import PARTS, AdapterSize, Memory, Task, Update


class FedAvg:
    """Sample-weighted mean of the factors and of the head. All devices of a round train at the global rank."""

    mixed_ranks = False
    fixed_rank = False
    uniform = False
    keeps_pair = True
    known: frozenset[str] = frozenset()
    home: frozenset[str] = frozenset()

    def trains(self, round_number: int) -> frozenset[str]:
        """Everything."""
        return PARTS

    def gets(self, round_number: int) -> frozenset[str]:
        """All that is neither known nor at home."""
        return PARTS - self.known - self.home

    def sends(self, round_number: int) -> frozenset[str]:
        """All that is trained and not at home."""
        return self.trains(round_number) - self.home

    def room(self, adapter: Update) -> int:
        """The global rank."""
        return max((len(pair.a) for pair in adapter.factors.values()), default=0)

    def init(self, adapter: Update) -> Update:
        """The state is the global adapter itself."""
        return adapter

    def begin(self, state: Any, round_number: int) -> Any:
        """The state as it is."""
        return state

    def resize(self, state: Update, size: AdapterSize, seed: int) -> Update:
        """The nearest product of the new rank."""
        return resize_update(state, size, seed)

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        """Every device gets the whole.

        Raises:
            ValueError: when ``size`` is not that of the global adapter; factors of different ranks have no mean.
        """
        if any(AdapterSize(len(pair.a), pair.scale) != size for pair in state.factors.values()):
            raise ValueError(f"the global adapter must have the size of its devices, {size}; resize it first")
        return state

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What was sent, as it is."""
        return Task(received)

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained, as it is; nothing is kept."""
        return trained, None

    def expected(self, sent: Update, came: Update) -> Update:
        """Names, shapes and scales of what was sent, and nothing beside them."""
        return replace(sent, extra={})

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The weighted mean, summed in float64 as updates come: what their order
        changes is far below what float32 can hold, but where large terms cancel.
        """
        total = 0.0
        sums = {name: tensor.double().zero_() for name, tensor in named_tensors(state).items()}
        for update in updates:
            total += update.weight
            _add(sums, update)
            del update  # before the next is made: one update in memory
        if total == 0.0:
            return state
        return with_tensors(state, {name: accumulated.div_(total).float() for name, accumulated in sums.items()})

    def adapter(self, state: Update) -> Update:
        """The state is the global adapter itself."""
        return state

    def base(self, state: Any) -> Mapping[str, Tensor]:
        """Nothing: the frozen weights stay as they are."""
        return {}

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """Nothing."""
        return 0

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """Nothing."""
        return 0


def _add(sums: Mapping[str, Tensor], update: Update) -> None:
    for name, tensor in named_tensors(update).items():
        sums[name].add_(tensor.double(), alpha=update.weight)
