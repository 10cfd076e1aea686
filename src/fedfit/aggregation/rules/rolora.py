"""RoLoRA: devices train B in one round and A in the next.

Chen et al., "Robust Federated Finetuning of Foundation Models via Alternating Minimization of LoRA", 2024, arXiv 2409.02346.

    B = Σ p_i B_i in one round,   A = Σ p_i A_i in the next,   head = Σ p_i head_i in both,   p_i = n_i / Σ n_j

Exact, since in each round all devices share the other factor: ``s·(Σ p_i B_i)·A = Σ p_i s·B_i·A``, and likewise for A.

The paper counts rounds from 0 and trains B in even ones. Ours count from 1: **B in rounds 1, 3, …, A in rounds 2, 4, …**. The
first must train B: a fresh B is zero, so the gradient of A, which is proportional to it, is zero too, and a run that began with
A would learn the head alone in its first round.

Up come the head and the one factor, the paper's ``r·d`` or ``r·k`` numbers a matrix. Down go both factors, ``r·(d + k)``. The
paper sends the factor of the last round alone, half of that where d = k, which asks that every device took part, and was heard,
in every round before: one drawn today for the first time lacks the means of all of them.
"""

from __future__ import annotations

from fedfit.aggregation.contract import Rule, ServerHalf, Traits, entry_of
from fedfit.aggregation.weighted_mean import average
from fedfit.core.update import LORA_A, LORA_B


def frozen(round_number: int) -> frozenset[str]:
    """A in odd rounds, B in even ones."""
    return frozenset({LORA_A if round_number % 2 else LORA_B})


ROLORA = Rule(Traits(needs="pairs", frozen=frozen), ServerHalf(average))
"""Sample-weighted mean of the round's factor and of the head.

The mean runs over the other factor as well, and leaves its bits: all devices return the factor unchanged, and a mean of equal
float32 numbers, summed in float64, is that number.
"""

ENTRY = entry_of(ROLORA)
