"""Fewer bits a number: half precision, and stochastic quantisation.

``quantize:b`` is QSGD's (Alistarh et al., NeurIPS 2017, arXiv 1610.02132; of updates: FedPAQ, AISTATS 2020, arXiv 1909.13014),
with the largest size of a block as its norm. With ``M = max |x|`` over a block and s levels,

    Q(x_j) = M · sgn(x_j) · ξ_j / s,   ξ_j = ⌊l⌋ + Bernoulli(l − ⌊l⌋),   l = s·|x_j| / M

``s = 2^(b−1) − 1``; at b = 1 the two values are ±M. ``E[Q(x)] = x``; each entry is off by at most M/s (2M at b = 1), and its
variance is at most (M/s)²/4 (M² at b = 1).

Under error feedback an unbiased rounding may lose more than it is given (see ``chain``), so the nearest level is taken in the
place of a drawn one; and at b = 1 the signs, times the mean size of the block (Karimireddy et al., arXiv 1901.09847).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedfit.codecs.scales import BLOCKS, Scales, spread
from fedfit.codecs.stage import NOTHING, Coded, Known, Shapes, check_tensor
from fedfit.errors import UpdateRefused


@dataclass(frozen=True)
class Half:
    """Every number in 16 bits: ``fp16`` keeps 11 digits of the mantissa up to 65,504, ``bf16`` 8 over the range of float32."""

    kind: torch.dtype
    order: int = 2
    reaches: int = 2
    lossless: bool = False

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """As many."""
        return entries

    def bits(self, bits: float) -> float:
        """Half of 32."""
        return 16.0

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """To the nearest; in ``fp16`` numbers beyond its range become its largest."""
        most = torch.finfo(self.kind).max
        return Coded(vector.clamp(-most, most).to(self.kind), {})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """As float32."""
        return check_tensor("values", coded.values, (entries,), self.kind).float()


@dataclass(frozen=True)
class Quantize:
    """``digits`` bits a number, 1 to 8, and a scale for each block."""

    digits: int
    scales: Scales = BLOCKS
    nearest: bool = False
    order: int = 2
    reaches: int = 2
    lossless: bool = False

    @property
    def contraction(self) -> Quantize:
        """The nearest level of each number, or the signs."""
        return replace(self, nearest=True)

    @property
    def levels(self) -> int:
        """s; 1 at one bit, whose codes are the two ends alone."""
        return max(1, (1 << self.digits - 1) - 1)

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """Bytes of the packed codes."""
        return packed_length(entries, self.digits)

    def bits(self, bits: float) -> float:
        """Its bits, and a share of a block's scale."""
        return self.digits + self.scales.bits

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """Codes from 0 on, packed without gaps, and the scales."""
        lengths = self.scales.lengths(len(vector), known.shapes)
        signs = self.nearest and self.digits == 1
        scales = self.scales.mean(vector, lengths) if signs else self.scales.largest(vector, lengths)
        parts = vector / spread(scales, lengths)
        if self.nearest:
            draws = torch.full((), 0.5)
        else:
            draws = torch.rand(len(vector), generator=torch.Generator().manual_seed(known.seed))
        if self.digits == 1:
            codes = (draws < (1 + parts) / 2).to(torch.uint8)
        else:
            # l, up to a rounding above s, and then ⌊l + u⌋ with u in [0, 1) is ⌊l⌋ or the number above, as ξ is
            level = (parts.abs() * self.levels + draws).floor().clamp(max=self.levels)
            codes = (level * parts.sign() + self.levels).nan_to_num().to(torch.uint8)
        return Coded(torch.from_numpy(pack_codes(codes.numpy(), self.digits)), {"scales": scales})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Codes times scales; a scale that is not a number leaves none, which the server refuses as it does any."""
        packed = check_tensor("values", coded.values, (self.length(entries),), torch.uint8)
        scales = self.scales.check(coded, entries, known.shapes)
        codes = torch.from_numpy(unpack_codes(packed.numpy(), entries, self.digits)).float()
        if entries and int(codes.max()) > (1 if self.digits == 1 else 2 * self.levels):
            raise UpdateRefused(f"values: a code above {2 * self.levels}")
        parts = 2 * codes - 1 if self.digits == 1 else (codes - self.levels) / self.levels
        return parts * scales


def packed_length(entries: int, digits: int) -> int:
    """Bytes that ``entries`` codes of ``digits`` bits take."""
    return -(-entries * digits // 8)


def pack_codes(codes: np.ndarray, digits: int) -> np.ndarray:
    """Codes ``(n,)`` below 2^digits as bytes, the highest bit first."""
    if digits == 8:
        return codes
    bits = (codes[:, None] >> np.arange(digits - 1, -1, -1, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(-1))


def unpack_codes(packed: np.ndarray, count: int, digits: int) -> np.ndarray:
    """The inverse of ``pack_codes``; bits beyond the last code are not read."""
    bits = np.unpackbits(packed)[: count * digits].reshape(count, digits)
    weights = 1 << np.arange(digits - 1, -1, -1)
    codes: np.ndarray = bits @ weights
    return codes
