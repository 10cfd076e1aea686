"""FedOBD: the less important tensors are left out, the others rounded to as few bits as pay.

Chen et al., IJCAI 2023, arXiv 2208.05174. The importance of a tensor is its change's size for each number,
``‖x‖₂ / count``; the least important ones that together hold at most ``share`` of all numbers are left out, so the receiver
sees no change of them. Each other is rounded, without chance, to the nearest of ``2^b`` levels from its least to its largest
number, at the b of 1 to 8 that makes

    ‖x − Q_b(x)‖² / ‖x‖² + b / 32

least: the error that is left, and the share of float32's bytes, weighed alike. (The paper weighs an error of its own by a
hyperparameter.) Biased; a block is a tensor here, of which the paper joins several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedfit.codecs.rounding import pack_codes, packed_length, unpack_codes
from fedfit.codecs.stage import NOTHING, Coded, Known, Shapes, Stage, check_tensor
from fedfit.errors import UpdateRefused

MOST_DIGITS = 8
_FLOAT_BITS = 32


@dataclass(frozen=True)
class FedOBD:
    """``share``: of the numbers, that may be left out; ``least`` bits a number for the others."""

    share: float
    least: int = 1
    order: int = 1
    reaches: int = 2
    lossless: bool = False

    @property
    def bound(self) -> tuple[Stage, ...]:
        """Nothing left out, and all bits."""
        return (replace(self, share=0.0, least=MOST_DIGITS),)

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """Bytes of all codes, by the bits that each tensor has."""
        digits = check_tensor("digits", beside.get("digits"), (len(shapes),), torch.uint8).tolist()
        if any(count > MOST_DIGITS for count in digits):
            raise UpdateRefused(f"digits: got {max(digits)} bits a number, wanted at most {MOST_DIGITS}")
        return sum(packed_length(math.prod(shape), count) for shape, count in zip(shapes, digits, strict=True))

    def bits(self, bits: float) -> float:
        """The most, with nothing left out. A tensor's ends count with what a packet has at any rank."""
        return float(MOST_DIGITS)

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """Codes of the tensors one after another; beside them the bits of each, 0 for one that is left out, and its ends."""
        pieces = torch.split(vector, [math.prod(shape) for shape in known.shapes])
        kept = _kept(pieces, self.share)
        packed, digits, ends = [torch.zeros(0, dtype=torch.uint8)], list[int](), list[Tensor]()
        for piece, is_kept in zip(pieces, kept, strict=True):
            count = best_digits(piece, self.least) if is_kept and len(piece) else 0
            digits.append(count)
            if count:
                low, high = piece.aminmax()
                ends.append(torch.stack([low, high]))
                packed.append(torch.from_numpy(pack_codes(_codes(piece, count).numpy(), count)))
        beside = {"digits": torch.tensor(digits, dtype=torch.uint8), "ends": torch.stack([torch.zeros(2), *ends])[1:]}
        return Coded(torch.cat(packed), beside)

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Zeros for what was left out."""
        values = check_tensor("values", coded.values, (self.length(entries, known.shapes, coded.beside),), torch.uint8)
        digits = coded.beside["digits"].tolist()
        ends = check_tensor("ends", coded.beside.get("ends"), (sum(map(bool, digits)), 2), torch.float32)
        sizes = [math.prod(shape) for shape in known.shapes]
        lengths = [packed_length(size, count) for size, count in zip(sizes, digits, strict=True)]
        each, parts = iter(ends), [torch.zeros(0)]
        for piece, size, count in zip(torch.split(values, lengths), sizes, digits, strict=True):
            if not count:
                parts.append(torch.zeros(size))
                continue
            low, high = next(each)
            codes = torch.from_numpy(unpack_codes(piece.numpy(), size, count)).float()
            parts.append(low + codes / (2**count - 1) * (high - low))
        return torch.cat(parts)


def best_digits(tensor: Tensor, least_digits: int = 1) -> int:
    """b for one tensor ``(n,)``, from ``least_digits`` on; of equal ones the least."""
    size = float(tensor.square().sum())
    low, high = tensor.aminmax()
    least, best = math.inf, least_digits
    for digits in range(least_digits, MOST_DIGITS + 1):
        seen = low + _codes(tensor, digits) / (2**digits - 1) * (high - low)
        cost = (float((tensor - seen).square().sum()) / size if size else 0.0) + digits / _FLOAT_BITS
        if cost < least:
            least, best = cost, digits
    return best


def _codes(tensor: Tensor, digits: int) -> Tensor:
    """The nearest of ``2^digits`` levels, from 0; NaN has level 0, and its ends are NaN as well."""
    low, high = tensor.aminmax()
    width = high - low
    parts = (tensor - low) / torch.where(width > 0, width, torch.ones(()))
    levels: Tensor = (parts * (2**digits - 1)).round().nan_to_num().clamp(0, 2**digits - 1)
    return levels.to(torch.uint8)


def _kept(pieces: Sequence[Tensor], share: float) -> list[bool]:
    """Which tensors are sent: from the least important on, one is left out while the numbers left out stay within ``share``.

    One that is not finite is always sent, so that a check finds it.
    """
    sizes = [float(piece.norm()) / max(1, len(piece)) for piece in pieces]
    importance = [size if math.isfinite(size) else math.inf for size in sizes]
    allowed = share * sum(len(piece) for piece in pieces)
    kept = [True] * len(pieces)
    for number in sorted(range(len(pieces)), key=lambda number: (importance[number], number)):
        allowed -= len(pieces[number])
        if allowed < 0 or importance[number] == math.inf:
            break
        kept[number] = False
    return kept
