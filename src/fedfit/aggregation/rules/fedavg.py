"""FedAvg over LoRA factors and head (FedIT).

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017; on LoRA factors:
Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP 2024.

    A = Σ p_i A_i,   B = Σ p_i B_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j

Biased: ``Σ p_i B_i · Σ p_i A_i ≠ Σ p_i B_i A_i``.
"""

from __future__ import annotations

from fedfit.aggregation.contract import Rule, ServerHalf, Traits, entry_of
from fedfit.aggregation.weighted_mean import average

FEDAVG = Rule(Traits(), ServerHalf(average))
"""Sample-weighted mean of every group. All devices of a round train at the global rank."""

ENTRY = entry_of(FEDAVG)
