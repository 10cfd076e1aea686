"""FFA-LoRA: A stays as it was drawn, and B alone is trained.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313.

    A = A0,   B = Σ p_i B_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Exact, since all devices share A0: ``s·(Σ p_i B_i)·A0 = Σ p_i s·B_i·A0``. A travels in neither direction: every device draws A0
itself from the recipe's seed. So B and the head are all that is sent, half the bytes of the factors where d = k. The price is
that ``ΔW`` never leaves the row space of A0.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedfit.aggregation.contract import Rule, ServerHalf, Traits, entry_of, same_size
from fedfit.aggregation.weighted_mean import weighted_mean
from fedfit.core.update import LORA_A, ServerState, Update

_A = frozenset({LORA_A})


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """FedAvg's mean of the trained groups. A is not looked at, so that no rounding of a sum can move it."""
    mean = weighted_mean(updates, state.adapter.without(_A))
    if mean is None:
        return state
    return ServerState(state.adapter.with_groups(mean.groups), state.tensors, state.numbers)


FFA_LORA = Rule(
    Traits(needs="pairs", fixed_rank=True, derivable=_A, frozen=lambda round_number: _A), ServerHalf(apply, resize=same_size)
)
"""Sample-weighted mean of B and of the head; A is the initial one to the bit, for the whole run."""

ENTRY = entry_of(FFA_LORA)
