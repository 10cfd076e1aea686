"""Losses of preferences over the log-probabilities of a better and a worse response, and those of a reference model.

Shapes: ``policy`` and ``reference`` are ``(pairs, 2)``, the chosen response first, summed over its tokens; ``counts`` are the
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional

PairLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def dpo(policy: Tensor, reference: Tensor, counts: Tensor, beta: float) -> Tensor:
    """``−log σ(β·h)``, h the difference of the two log-ratios, ``(pairs,)``: Rafailov et al. 2023, arXiv 2305.18290, eq. 7."""
    ratios = policy - reference
    return -functional.logsigmoid(beta * (ratios[:, 0] - ratios[:, 1]))


def ipo(policy: Tensor, reference: Tensor, counts: Tensor, beta: float) -> Tensor:
    """``(h − 1/(2β))²`` with h of means over tokens, ``(pairs,)``: Azar et al. 2023, arXiv 2310.12036, eq. 17, τ = β."""
    ratios = (policy - reference) / counts
    return (ratios[:, 0] - ratios[:, 1] - 1 / (2 * beta)).square()


def kto(policy: Tensor, reference: Tensor, counts: Tensor, beta: float) -> Tensor:
    """The mean of ``1 − σ(β(r − z))`` of the chosen and ``1 − σ(β(z − r))`` of the rejected response, ``(pairs,)``.

    r is a response's log-ratio. z, without a gradient, is the batch's mean log-ratio, at least 0: it stands for the divergence
    of the model from its reference. Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8, where z is taken over mismatched prompts
    and responses: those would have to be computed beside the batch.
    """
    ratios = policy - reference
    level = ratios.detach().mean().clamp(min=0)
    better, worse = (beta * (ratios[:, 0] - level)).sigmoid(), (beta * (level - ratios[:, 1])).sigmoid()
    return 1 - (better + worse) / 2


LOSSES: Mapping[str, PairLoss] = MappingProxyType({"dpo": dpo, "ipo": ipo, "kto": kto})
"""By the names of ``task.loss``."""
