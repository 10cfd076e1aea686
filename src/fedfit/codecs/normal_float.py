"""Four bits a number in levels that are quantiles of a normal distribution: NF4 of QLoRA.

Dettmers et al., NeurIPS 2023, arXiv 2305.14314: sixteen levels from −1 to 1, zero among them, times the largest size of a block
of numbers. Each number goes to the nearest level: deterministic, biased, off by at most 0.152·M.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfit.codecs.rounding import pack_codes, packed_length, unpack_codes
from fedfit.codecs.scales import BLOCKS, Scales, spread
from fedfit.codecs.stage import NOTHING, Coded, Known, Shapes, check_tensor

_BELOW = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004)
_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
LEVELS = (*_BELOW, 0.0, *_ABOVE)
"""Quantiles of the normal distribution, seven below zero and eight above, divided by the largest."""

_DIGITS = 4


@dataclass(frozen=True)
class NormalFloat:
    """NF4."""

    scales: Scales = BLOCKS
    order: int = 2
    reaches: int = 2
    lossless: bool = False

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """Bytes of the packed codes."""
        return packed_length(entries, _DIGITS)

    def bits(self, bits: float) -> float:
        """Four, and a share of a block's scale."""
        return _DIGITS + self.scales.bits

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """The nearest level of each number, and the scales."""
        lengths = self.scales.lengths(len(vector), known.shapes)
        scales = self.scales.largest(vector, lengths)
        levels = torch.tensor(LEVELS)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize((vector / spread(scales, lengths)).nan_to_num(), middles).to(torch.uint8)
        return Coded(torch.from_numpy(pack_codes(codes.numpy(), _DIGITS)), {"scales": scales})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Levels times scales."""
        packed = check_tensor("values", coded.values, (self.length(entries),), torch.uint8)
        codes = torch.from_numpy(unpack_codes(packed.numpy(), entries, _DIGITS))
        return torch.tensor(LEVELS)[codes.long()] * self.scales.check(coded, entries, known.shapes)
