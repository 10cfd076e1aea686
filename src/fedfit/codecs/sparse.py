"""The places of a sparse vector's entries on the wire, in the fewer bytes of two forms.

Of n entries k are sent: k values in the order of their positions, and the positions as a bitmap of n bits or as k indices of
int32, whichever is smaller. Both sides know n and k, so nothing says which of the two it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedfit.errors import UpdateRefused

_INDEX_BYTES = 4


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
        if count == 0:
            return packed.long()
        if int(packed[0]) < 0 or int(packed[-1]) >= entries or not bool((packed[1:] > packed[:-1]).all()):
            raise UpdateRefused(f"positions: not ascending from 0 on and below {entries}")
        return packed.long()
    bits = np.unpackbits(packed.numpy())
    if bits[entries:].any() or int(bits.sum()) != count:
        raise UpdateRefused(f"positions: {int(bits.sum())} bits are set, wanted {count} among the first {entries}")
    return torch.from_numpy(np.flatnonzero(bits))
