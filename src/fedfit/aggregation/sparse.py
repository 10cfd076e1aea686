"""A sparse vector on the wire: the entries that are largest by magnitude, and where they stand, in the fewer bytes of two ways.

Of n entries k are sent: k float32 values in the order of their positions, and the positions as a bitmap of n bits or as k
indices of int32, whichever is smaller. Both sides know n and k, so nothing says which of the two it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedfit.errors import UpdateRefused

_INDEX_BYTES = 4


def count_of(entries: int, density: float) -> int:
    """k: ``density`` of ``entries``, rounded, at least 1."""
    return max(1, round(density * entries))


def largest(vector: Tensor, count: int) -> Tensor:
    """Positions of the ``count`` entries of ``vector`` ``(n,)`` that are largest by magnitude, ascending; of equals the first.

    What is not a number is larger than all: it is not hidden from who checks what was sent.
    """
    sizes = torch.where(vector.isnan(), torch.inf, vector.abs())
    bound = sizes.kthvalue(len(sizes) - count + 1).values
    chosen = sizes > bound
    equal = (sizes == bound).nonzero().squeeze(1)
    chosen[equal[: count - int(chosen.sum())]] = True
    return chosen.nonzero().squeeze(1)


def positions_form(entries: int, count: int) -> tuple[int, torch.dtype]:
    """Length and type of the tensor that ``pack`` makes."""
    bitmap = -(-entries // 8)
    return (bitmap, torch.uint8) if bitmap <= _INDEX_BYTES * count else (count, torch.int32)


def pack(positions: Tensor, entries: int) -> Tensor:
    """``positions`` ``(k,)``, ascending, of a vector of ``entries``: a bitmap, the first entry the highest bit, or int32."""
    _, kind = positions_form(entries, len(positions))
    if kind == torch.int32:
        return positions.to(torch.int32)
    bits = np.zeros(entries, dtype=bool)
    bits[positions.numpy()] = True
    return torch.from_numpy(np.packbits(bits))


def unpack(packed: Tensor | None, entries: int, count: int) -> Tensor:
    """The inverse of ``pack``: ``(count,)`` positions as int64.

    Raises:
        UpdateRefused: when they are not ``count`` positions below ``entries``, ascending, in the form that is due.
    """
    length, kind = positions_form(entries, count)
    if packed is None or (packed.shape, packed.dtype) != ((length,), kind):
        there = "nothing" if packed is None else f"{tuple(packed.shape)} {packed.dtype}"
        raise UpdateRefused(f"positions: got {there}, wanted {(length,)} {kind}")
    if kind == torch.int32:
        if int(packed[0]) < 0 or int(packed[-1]) >= entries or not bool((packed[1:] > packed[:-1]).all()):
            raise UpdateRefused(f"positions: not ascending from 0 on and below {entries}")
        return packed.long()
    bits = np.unpackbits(packed.numpy())
    if bits[entries:].any() or int(bits.sum()) != count:
        raise UpdateRefused(f"positions: {int(bits.sum())} bits are set, wanted {count} among the first {entries}")
    return torch.from_numpy(np.flatnonzero(bits))
