"""What every layer takes beside the hidden states: masks, biases of the scores, rotary angles.

A decoder's token sees itself and the tokens before it, within the layer's window. Where a prompt has several continuations,
each sees the prompt and itself alone: a tree, whose branches go on from the prompt's end. Padding comes after all tokens, so
that causality hides it; one text a row, shorter than the window, needs no mask at all, and the causal kernel runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedfit.models.family import Family, LayerKind


@dataclass(frozen=True)
class Sight:
    """Which tokens a decoder's token sees. ``positions`` ``(1 or batch, tokens)`` count along the token's own branch."""

    positions: Tensor
    branches: Tensor | None
    """The segments ``(batch, tokens)`` where some sample has several continuations, else ``None``."""
    window: int | None
    """A token sees itself and ``window - 1`` tokens before it; ``None``: all."""

    def of(self, index: Tensor) -> Tensor:
        """``(1 or batch, 1, queries, tokens)``, true where the token at ``index`` ``(1 or batch, queries)`` sees one."""
        rows, tokens = max(len(index), len(self.positions)), self.positions.shape[1]
        index, positions = index.expand(rows, -1), self.positions.expand(rows, -1)
        seen = torch.arange(tokens, device=index.device) <= index[..., None]
        if self.branches is not None:
            own, branches = self.branches.gather(1, index), self.branches[:, None, :]
            seen = seen & ((branches == 0) | (branches == own[..., None]))
        if self.window is not None:
            seen = seen & (positions.gather(1, index)[..., None] - positions[:, None, :] < self.window)
        return seen[:, None]

    def whole(self) -> Tensor | None:
        """``of`` every token; ``None`` where plain causality says the same."""
        tokens = self.positions.shape[1]
        if self.branches is None and (self.window is None or self.window >= tokens):
            return None
        return self.of(torch.arange(tokens, device=self.positions.device)[None])


@dataclass(frozen=True)
class LayerInputs:
    """What a layer takes beside the hidden states."""

    mask: Tensor | None
    """True where a token is seen; ``None`` where all are, or of a decoder all before it: attention is faster then. An encoder's
    is ``(batch, 1, 1, tokens)``, a decoder's ``(1 or batch, 1, tokens, tokens)``."""
    bias: Tensor | None = None
    """``(1, heads, tokens, tokens)``, added to the scores."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosine and sine of a decoder's angles, ``(1 or batch, tokens, head size)`` each."""
    sight: Sight | None = None
    """A decoder's; ``mask`` is its ``whole``."""

    def additive_mask(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as numbers that are added to the scores: 0, and the least number of ``dtype``."""
        if self.mask is None:
            return None
        return torch.zeros_like(self.mask, dtype=dtype).masked_fill(~self.mask, torch.finfo(dtype).min)


def layer_inputs(
    family: Family, encoder: Any, hidden: Tensor, lengths: Tensor | None, segments: Tensor | None
) -> Sequence[LayerInputs]:
    """The inputs of every layer of the model, trunk and tail.

    Args:
        lengths: tokens of each row, where rows are padded at the end; ``None``: none is.
        segments: a decoder's, ``(batch, tokens)``, as ``Batch`` has them.
    """
    if family.decoder is None:
        bias = family.score_bias(encoder, hidden) if family.score_bias else None
        return [LayerInputs(None if lengths is None else attention_mask(lengths), bias)] * encoder.config.num_hidden_layers
    branches = segments if has_branches(segments) else None
    positions = token_positions(branches, hidden.shape[1], hidden.device)
    kinds = family.decoder.kinds(encoder.config)
    made: dict[LayerKind, LayerInputs] = {}
    for kind in dict.fromkeys(kinds):
        sight = Sight(positions, branches, kind.window)
        rotary = family.decoder.rotary(encoder, hidden, positions, kind.name)
        made[kind] = LayerInputs(sight.whole(), None, rotary, sight)
    return [made[kind] for kind in kinds]


def attention_mask(lengths: Tensor) -> Tensor | None:
    """An encoder's ``LayerInputs.mask`` of rows of ``lengths`` tokens, padded at the end."""
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return None
    positions = torch.arange(longest, device=lengths.device)
    return (positions < lengths[:, None])[:, None, None, :]


def has_branches(segments: Tensor | None) -> bool:
    """Whether some prompt has more than one continuation."""
    return segments is not None and int(segments.max()) > 1


def token_positions(segments: Tensor | None, tokens: int, device: torch.device) -> Tensor:
    """Each token's position along its own branch, ``(1 or batch, tokens)``: a continuation goes on from the prompt's end."""
    numbers = torch.arange(tokens, device=device)[None]
    if not has_branches(segments):
        return numbers
    assert segments is not None
    prompt = (segments == 0).sum(dim=1, keepdim=True)
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = (numbers * first).cummax(dim=1).values
    return torch.where(segments == 0, numbers, prompt + numbers - start)
