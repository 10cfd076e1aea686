"""The input of the tail: hidden states at the cut, of several samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples at the cut, padded at the end."""

    hidden: Tensor
    """``(batch, tokens, hidden)``; 0 after the end of each sample."""
    lengths: Tensor
    """Tokens of each sample, ``(batch,)``, int64."""
    segments: Tensor | None = None
    """A decoder's: ``(batch, tokens)``, int64, -1 after the end of each sample. 0 is the prompt, ``j`` its j-th continuation,
    which sees the prompt and itself alone. ``None``: every sample is one text. An encoder's trunk has read its own."""


def mean_states(batch: Batch) -> Tensor:
    """What each sample is known by: the mean of its states, over the tokens of its prompt where it has one; ``(batch,
    hidden)``.
    """
    tokens = torch.arange(batch.hidden.shape[1], device=batch.hidden.device)
    counted = tokens < batch.lengths[:, None] if batch.segments is None else batch.segments == 0
    summed = (batch.hidden * counted[..., None]).sum(dim=1)
    return summed / counted.sum(dim=1, keepdim=True).clamp(min=1)
