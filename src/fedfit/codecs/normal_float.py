"""Four bits a number in levels that are quantiles of a normal distribution: NF4 of QLoRA.

Dettmers et al., NeurIPS 2023, arXiv 2305.14314: sixteen levels from −1 to 1, zero among them, times the largest size of a block
of 64. Each number goes to the nearest level: deterministic, biased, off by at most 0.152·M.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedfit.codecs.rounding import block_scales, check_blocks, pack_codes, unpack_codes
from fedfit.codecs.stage import Coded, Known

_BELOW = (-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004)
_ABOVE = (0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0)
LEVELS = (*_BELOW, 0.0, *_ABOVE)
"""Quantiles of the normal distribution, seven below zero and eight above, divided by the largest."""

_DIGITS, _BLOCK, _SCALE_BITS = 4, 64, 32


@dataclass(frozen=True)
class NormalFloat:
    """NF4."""

    order: int = 2
    lossless: bool = False

    def length(self, entries: int) -> int:
        """Bytes of the packed codes."""
        return -(-entries * _DIGITS // 8)

    def bits(self, bits: float) -> float:
        """Four, and a share of a block's scale."""
        return _DIGITS + _SCALE_BITS / _BLOCK

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """The nearest level of each number, and the scales."""
        padded, scales, size = block_scales(vector, _BLOCK)
        levels = torch.tensor(LEVELS)
        middles = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize((padded / size).nan_to_num().contiguous(), middles).to(torch.uint8)
        packed = pack_codes(codes.view(-1)[: len(vector)].numpy(), _DIGITS)
        return Coded(torch.from_numpy(packed), {"scales": scales})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Levels times scales."""
        packed, scales = check_blocks(coded, entries, self.length(entries), _BLOCK)
        codes = torch.from_numpy(unpack_codes(packed.numpy(), entries, _DIGITS))
        return torch.tensor(LEVELS)[codes.long()] * scales.repeat_interleave(_BLOCK)[:entries]
