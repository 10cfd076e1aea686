"""Fewer numbers of a matrix: two thin factors, as PowerSGD's (Vogels et al., NeurIPS 2019, arXiv 1905.13727).

For a matrix M ``(m, n)`` of differences and Q ``(n, r)`` of the last packet: ``P = orth(M·Q)``, ``Q = Mᵀ·P``, and ``P·Qᵀ`` is
what the receiver sees: M projected on r directions, which one packet after another turns into M's main ones. What travels is
P·√σ and Q/√σ, σ the length of a column of Q: numbers of about one size, so that a rounding behind may give both one scale.
Biased: error feedback keeps the rest. A device's first Q is drawn; later ones are kept in its memory (the paper's warm start).
Vectors, and matrices that two factors would not make smaller, travel whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfit.codecs.stage import NOTHING, Coded, Known, Shapes, Stage, check_tensor


@dataclass(frozen=True)
class LowRank:
    """``rank``: columns of the two factors."""

    rank: int
    order: int = 1
    reaches: int = 1
    lossless: bool = False

    @property
    def bound(self) -> tuple[Stage, ...]:
        """Every matrix whole: how much less two factors are depends on its shape."""
        return ()

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """Numbers of all factors and of what travels whole."""
        return sum(self._numbers(shape) for shape in shapes)

    def bits(self, bits: float) -> float:
        """Those of a matrix that travels whole."""
        return bits

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """P and Q of each matrix one after another. A Q of other shapes is drawn anew."""
        widths = [shape[1] * self.rank for shape in known.shapes if self._is_less(shape)]
        kept = known.kept if known.kept is not None and len(known.kept) == sum(widths) else None
        if kept is None:
            kept = torch.randn(sum(widths), generator=torch.Generator().manual_seed(known.seed))
        starts, parts, turned = iter(torch.split(kept, widths)), list[Tensor](), list[Tensor]()
        sizes = [math.prod(shape) for shape in known.shapes]
        for shape, piece in zip(known.shapes, torch.split(vector, sizes), strict=True):
            if not self._is_less(shape):
                parts.append(piece)
                continue
            matrix = piece.view(*shape)
            p = _orthonormal(matrix @ next(starts).view(shape[1], self.rank))
            q = matrix.T @ p
            size = q.norm(dim=0).sqrt()
            size = torch.where(size > 0, size, torch.ones(()))
            parts += [(p * size).reshape(-1), (q / size).reshape(-1)]
            turned.append(parts[-1])
        return Coded(_joined(parts), {}, _joined(turned))

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """P·Qᵀ of each."""
        lengths = [self._numbers(shape) for shape in known.shapes]
        values = check_tensor("values", coded.values, (sum(lengths),), torch.float32)
        parts = []
        for shape, piece in zip(known.shapes, torch.split(values, lengths), strict=True):
            if self._is_less(shape):
                p, q = torch.split(piece, [shape[0] * self.rank, shape[1] * self.rank])
                piece = (p.view(-1, self.rank) @ q.view(-1, self.rank).T).reshape(-1)
            parts.append(piece)
        return _joined(parts)

    def _is_less(self, shape: Sequence[int]) -> bool:
        return len(shape) == 2 and (shape[0] + shape[1]) * self.rank < shape[0] * shape[1]

    def _numbers(self, shape: Sequence[int]) -> int:
        return (shape[0] + shape[1]) * self.rank if self._is_less(shape) else math.prod(shape)


def _orthonormal(matrix: Tensor) -> Tensor:
    """A basis of the columns' span ``(m, r)``; NaN where the matrix holds one, so that a check finds it."""
    if not bool(matrix.isfinite().all()):
        return torch.full_like(matrix, float("nan"))
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *parts])
