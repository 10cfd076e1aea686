"""The next-token distributions of a language model at the positions that are read, without a tensor of all their logits.

A distribution has as many logits as the vocabulary has words: 49,152 to 262,144, so that those of a batch would be most of a
step's memory. They are made in chunks of rows instead, and of each chunk is kept what is asked for. With ``z = W s`` (or
``c·tanh(W s / c)`` where the model caps its logits at ``c``), ``p = softmax z`` and a wanted token ``y``::

    log p_y = z_y − log Σ exp z        ∂ log p_y / ∂s = Wᵀ ((1_y − p) ⊙ z')        z' = 1, or 1 − (z / c)²

The gradient's row is made with the chunk, in the forward pass, and scaled by the row's own upstream gradient in the backward
pass. W is frozen. In mixed precision the row is made before the loss is scaled, so it must not vanish by itself: ``1 − p_y`` is
the sum of all other shares, what multiplies W in the half type has the same size in every row, and the row is kept in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedfit.models.family import Family

CHUNK_BYTES = 64 * 2**20
"""Of float32 logits that exist at once; the softmax takes their place."""

_HALF_SUM = 1024.0
"""The sum of the sizes of a row's numbers that multiply W in a half type: small shares of a large vocabulary keep their digits
in float16, and the product cannot overflow while no number of W is above 63."""


@dataclass(frozen=True)
class VocabularyHead:
    """The frozen map from states to the logits of the vocabulary, ``weight`` ``(vocabulary, hidden)``."""

    weight: Tensor
    soft_cap: float | None
    """``c``: the logits are ``c·tanh(z / c)``; ``None``: as they are."""

    def logits(self, states: Tensor) -> Tensor:
        """Float32 ``(n, vocabulary)`` of ``states`` ``(n, hidden)``, multiplied in the weight's type."""
        logits = states.to(self.weight.dtype) @ self.weight.t()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if self.soft_cap is None else (logits / self.soft_cap).tanh() * self.soft_cap


def vocabulary_head(family: Family, model: nn.Module) -> VocabularyHead:
    """The head of a language model of ``family``."""
    assert family.decoder is not None
    module: Any = model.get_submodule(family.decoder.head)
    assert module.bias is None
    config: Any = model.config
    return VocabularyHead(module.weight, getattr(config, "final_logit_softcapping", None))


class Readout:
    """Next-token distributions at ``n`` positions. Precision is that of the autocast in which it was made.

    Args:
        states: ``(n, hidden)``, after the model's last norm.
    """

    def __init__(self, states: Tensor, head: VocabularyHead) -> None:
        self.states, self.head = states, head
        device = states.device.type
        if torch.is_autocast_enabled(device):
            self.head = replace(head, weight=head.weight.to(torch.get_autocast_dtype(device)))

    def __len__(self) -> int:
        return len(self.states)

    def log_probs(self, ids: Tensor) -> Tensor:
        """Log-probability of the token ``ids[i]`` at position ``i``: ``(n,)`` in nats, with a gradient to the states."""
        found: Tensor = _LogProbs.apply(self.states, ids, self.head)  # type: ignore[no-untyped-call]
        return found

    def logits(self, rows: Tensor | slice) -> Tensor:
        """The logits of ``rows``, float32 ``(rows, vocabulary)``; of a few, since they are all made at once."""
        return self.head.logits(self.states[rows])

    @torch.no_grad()
    def best(self) -> Tensor:
        """The most probable token of each position, ``(n,)``."""
        found = [self.logits(rows).argmax(dim=1) for rows in self._chunks()]
        return torch.cat(found) if found else self.states.new_empty(0, dtype=torch.long)

    @torch.no_grad()
    def kl(self, other: Readout) -> Tensor:
        """``KL(self ‖ other) = Σ p (log p − log q)`` of each position, ``(n,)`` in nats, without a gradient."""
        found = []
        for rows in self._chunks(2):
            mine, its = self.logits(rows).log_softmax(dim=1), other.logits(rows).log_softmax(dim=1)
            found.append((mine.exp() * mine.sub(its)).sum(dim=1))
        return torch.cat(found) if found else self.states.new_empty(0)

    def _chunks(self, share: int = 1) -> Iterator[slice]:
        return chunks(len(self), self.head.weight.shape[0] * share)


def chunks(rows: int, numbers: int) -> Iterator[slice]:
    """``rows`` in slices whose ``numbers`` float32 numbers a row are at most ``CHUNK_BYTES``, and at least one row."""
    step = max(1, CHUNK_BYTES // (4 * numbers))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, ids: Tensor, head: VocabularyHead) -> Tensor:
        wide = torch.float64 if head.weight.dtype == torch.float64 else torch.float32
        found = torch.empty(len(states), dtype=wide, device=states.device)
        gradient = torch.empty_like(states, dtype=wide) if ctx.needs_input_grad[0] else None
        for rows in chunks(len(states), head.weight.shape[0]):
            logits, wanted = head.logits(states[rows]), ids[rows, None]
            picked, top = logits.gather(1, wanted), logits.amax(dim=1, keepdim=True)
            bend = None if head.soft_cap is None or gradient is None else 1 - (logits / head.soft_cap).square()
            others = logits.sub_(top).exp_().scatter_(1, wanted, 0)
            rest = others.sum(dim=1, keepdim=True)
            total = (picked - top).exp_().add_(rest)
            found[rows] = (picked - top - total.log())[:, 0]
            if gradient is not None:
                gradient[rows] = _gradient(others.scatter_(1, wanted, -rest), total, bend, head.weight)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.kind = states.dtype
        return found

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[0][:, None]).to(ctx.kind), None, None


def _gradient(pulls: Tensor, total: Tensor, bend: Tensor | None, weight: Tensor) -> Tensor:
    """``Wᵀ ((1_y − p) ⊙ z')`` of ``p − 1_y = pulls / total``; overwrites ``pulls``."""
    if bend is not None:
        pulls.mul_(bend)
    if weight.dtype == pulls.dtype:
        return (pulls @ weight).div_(-total)
    size = torch.linalg.vector_norm(pulls, 1, dim=1, keepdim=True).div_(_HALF_SUM).clamp_min_(torch.finfo(pulls.dtype).tiny)
    return (pulls.div_(size).to(weight.dtype) @ weight).to(pulls.dtype).mul_(size).div_(-total)
