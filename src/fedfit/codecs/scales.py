"""One scale for several numbers: for each block of a fixed length, each row of a tensor, or each tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfit.codecs.stage import Coded, Shapes, check_tensor

SCALE_BITS = 32
BLOCK = 64
"""Numbers that share a scale, by default."""


@dataclass(frozen=True)
class Scales:
    """``per``: the length of a block, ``"row"`` (along the last axis) or ``"tensor"``."""

    per: int | str = BLOCK

    @property
    def bits(self) -> float:
        """A number's part of a block's scale. Scales of rows and tensors count with what a packet has at any rank."""
        return SCALE_BITS / self.per if isinstance(self.per, int) else 0.0

    def lengths(self, entries: int, shapes: Shapes) -> Tensor:
        """``(scales,)``: how many numbers, one after another, share each scale; their sum is ``entries``."""
        if isinstance(self.per, int):
            whole, rest = divmod(entries, self.per)
            return torch.tensor([self.per] * whole + [rest] * bool(rest), dtype=torch.int64)
        found: list[int] = []
        for shape in shapes:
            row = shape[-1] if self.per == "row" and len(shape) > 1 else math.prod(shape)
            found += [row] * (math.prod(shape) // row if row else 0)
        return torch.tensor(found, dtype=torch.int64)

    def largest(self, vector: Tensor, lengths: Tensor) -> Tensor:
        """``(scales,)``: the largest size of each block; NaN where one is."""
        if isinstance(self.per, int):  # a reshape is several times faster than a reduction by segments
            return torch.nn.functional.pad(vector, (0, -len(vector) % self.per)).view(-1, self.per).abs().amax(dim=1)
        return torch.segment_reduce(vector.abs(), "max", lengths=lengths) if len(lengths) else torch.zeros(0)

    def mean(self, vector: Tensor, lengths: Tensor) -> Tensor:
        """``(scales,)``: the mean size of each block."""
        blocks = torch.arange(len(lengths)).repeat_interleave(lengths)
        sums = torch.zeros(len(lengths)).index_add_(0, blocks, vector.abs())
        return sums / lengths.clamp(min=1)

    def check(self, coded: Coded, entries: int, shapes: Shapes) -> Tensor:
        """The scale of every number ``(entries,)``.

        Raises:
            UpdateRefused: for another number of scales.
        """
        lengths = self.lengths(entries, shapes)
        scales = check_tensor("scales", coded.beside.get("scales"), (len(lengths),), torch.float32)
        return scales.repeat_interleave(lengths)


BLOCKS = Scales()
"""For each block of 64."""


def spread(scales: Tensor, lengths: Tensor) -> Tensor:
    """``(entries,)``: each number's scale as a divisor, 1 for a block of zeros."""
    return torch.where(scales == 0, torch.ones(()), scales).repeat_interleave(lengths)
