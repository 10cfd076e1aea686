"""Best approximations of low-rank products, from their factors: nothing larger than the larger factor is ever made.

For ``M = B·A``, ``B (d, n)``, ``A (n, k)``: with ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` the singular values of ``M`` are those of
the small core ``R_B R_Aᵀ = U Σ Vᵀ``, and its singular vectors are ``Q_B U`` and ``Q_A V``. Cut at r this is the nearest product
of rank r (Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936).

With n < min(d, k) no matrix of the product's size is made. From there on M is no larger than B or A, a core would be of M's
size too, and M itself is decomposed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedfit.core.update import AdapterSize, Factors

_FLOAT32 = 1e-7
_NOTHING = 1e-12  # singular values below this share of the largest are what rounding left of zero
_COARSE = 1e-4  # singular values below this share of the largest are not to be had from squares


def nearest_factors(b: Tensor, a: Tensor, size: AdapterSize, old: Factors) -> Factors:
    """Factors of ``size`` whose product, scale included, is the nearest to ``b @ a``: ``s'·B'·A' = trunc(B·A)``.

    With ``U Σ Vᵀ`` as above, ``A' = c·Vᵀ`` and ``B' = U·Σ / (s'·c)``; c is the root of the mean squared norm of the rows of
    ``old.a``. So training goes on as LoRA does: A has its usual size, its rows are orthogonal, and B carries the learned part.
    (Sharing Σ between the factors would shrink A with the update, and the gradient of B with it.) Where ``b @ a`` has a lower
    rank than ``size``, columns of B are zero, and their rows of A are directions out of the rows of ``old.a``: a zero row
    beside a zero column would never get a gradient.

    Args:
        b: ``(d, n)``, float64, scales and weights included.
        a: ``(n, k)``, float64.
        size: of the result, its rank at most min(d, k).
        old: the pair that is replaced; it gives c, the type, and directions that are left to learn in.
    """
    left, values, rows = _truncated_svd(b, a, size.rank)
    old_rows = old.a.double()
    norm = float(old_rows.square().sum(dim=1).mean().sqrt()) or math.sqrt(1 / 3)  # the latter is what PEFT's A starts with
    missing = size.rank - len(rows)
    new_a = torch.cat([rows, _other_directions(rows, old_rows, missing)]) * norm
    learned = left * (values / (size.scale * norm))
    new_b = torch.cat([learned, learned.new_zeros(len(learned), missing)], dim=1)
    return Factors(new_a.to(old.a.dtype), new_b.to(old.b.dtype), size.scale)


def product_factors(b: Tensor, a: Tensor, like: Factors) -> Factors:
    """``b @ a`` as factors of the rank that it has, at scale 1: ``A`` with orthonormal rows ``(n, k)``, ``B (d, n)``.

    Args:
        b: ``(d, m)``, float64.
        a: ``(m, k)``, float64.
        like: gives the type, float32: singular values that it cannot hold beside the largest count as zero.
    """
    left, values, rows = _truncated_svd(b, a, min(*b.shape, a.shape[1]), _FLOAT32)
    return Factors(rows.to(like.a.dtype).contiguous(), (left * values).to(like.b.dtype).contiguous(), 1.0)


def _truncated_svd(b: Tensor, a: Tensor, rank: int, share: float = _NOTHING) -> tuple[Tensor, Tensor, Tensor]:
    """``(d, p)``, ``(p,)`` and ``(p, k)`` of ``b @ a``: its largest singular values that are not zero, at most ``rank``.

    Signs are fixed by the entry of each right vector that is largest by magnitude: it is positive.
    """
    left, values, rows = _by_squares(b, a, rank) or _whole_svd(b, a)
    count = min(rank, int((values > values[0] * share).sum()))
    rows = rows[:count]
    signs = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
    return left[:, :count] * signs.t(), values[:count], rows * signs


def _whole_svd(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All singular values and vectors of ``b @ a``, as the module's head has it."""
    if _is_wide(b, a):
        return _svd(b @ a)
    left_basis, left_core = torch.linalg.qr(b)
    right_basis, right_core = torch.linalg.qr(a.t())
    left, values, right = _svd(left_core @ right_core.t())
    return left_basis @ left, values, right @ right_basis.t()


def _by_squares(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The ``rank`` largest alone, in less time; ``None`` where it would not be as good, or where ``rank`` is most of all.

    With ``Aᵀ = Q_A R_A`` the product ``C = B R_Aᵀ``, ``(d, n)``, has the left singular vectors of ``B·A``, and those on its
    other side are the eigenvectors V of ``CᵀC``: half the cost of an SVD. Only the space of the left ones, ``U = orth(C V_r)``,
    is taken from there. Values and right vectors are those of ``Uᵀ B·A``, which is never squared.

    Squares lose values far below the largest: U is off by about ``2⁻⁵² (σ_1/σ_r)²``. With σ_r above ``_COARSE`` of σ_1 that is
    2e-8, below the precision of the float32 result.
    """
    wide = _is_wide(b, a)
    if 2 * rank > min(*b.shape, a.shape[1]):
        return None
    core = b @ a if wide else b @ torch.linalg.qr(a.t(), mode="r").R.t()
    tall = core.shape[0] >= core.shape[1]
    squares, vectors = torch.linalg.eigh(core.t() @ core if tall else core @ core.t())  # ascending
    if not squares[-rank] > squares[-1] * _COARSE**2:
        return None
    basis = torch.linalg.qr(core @ vectors[:, -rank:]).Q if tall else vectors[:, -rank:]
    right_basis, right_core = torch.linalg.qr((basis.t() @ core if wide else (basis.t() @ b) @ a).t())
    left, values, right = _svd(right_core.t())
    return basis @ left, values, right @ right_basis.t()


def _is_wide(b: Tensor, a: Tensor) -> bool:
    """Whether n ≥ min(d, k): the product is then no larger than the larger factor, and a core would be as large."""
    return b.shape[1] >= min(b.shape[0], a.shape[1])


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def _other_directions(rows: Tensor, candidates: Tensor, count: int) -> Tensor:
    """``(count, k)``: orthonormal, orthogonal to the orthonormal ``rows``, and out of the space of rows and candidates.

    Taken one by one, the candidate with the most outside of what is there first, so that no bit of chance, as rounding in
    the order of a sum, turns them round in that space. Noise far below the candidates steps in when they are used up.
    """
    if count == 0:
        return rows[:0]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, candidates.shape[1], generator=generator, dtype=torch.float64).to(candidates.device)
    size = float(candidates.norm(dim=1).max()) or 1.0
    rest = torch.cat([candidates, noise * (1e-4 * size / math.sqrt(candidates.shape[1]))])
    found = rows
    rest = _without(_without(rest, found), found)  # the second time takes off what rounding left
    for _ in range(count):
        norms = rest.norm(dim=1)
        best = int((norms > norms.max() * (1 - 1e-6)).nonzero()[0])  # of equals the first
        new = _without(_without(rest[best : best + 1], found), found)
        new = new / new.norm()
        found = torch.cat([found, new])
        rest = _without(rest, new)
    return found[len(rows) :]


def _without(vectors: Tensor, basis: Tensor) -> Tensor:
    """The rows of ``vectors`` less what the orthonormal rows of ``basis`` span."""
    return vectors - (vectors @ basis.t()) @ basis
