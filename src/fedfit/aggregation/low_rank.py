"""Best approximations of low-rank products, from their factors alone: no matrix of the product's size is ever made.

For ``M = B·A``, ``B (d, n)``, ``A (n, k)``: with ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` the singular values of ``M`` are those of
the small core ``R_B R_Aᵀ = U Σ Vᵀ``, and its singular vectors are ``Q_B U`` and ``Q_A V``. Cut at r this is the nearest product
of rank r (Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedfit.records import AdapterSize, Factors

_NOTHING = 1e-12  # singular values below this share of the largest are what rounding left of zero


def nearest_factors(b: Tensor, a: Tensor, size: AdapterSize, old: Factors) -> Factors:
    """Factors of ``size`` whose product, scale included, is the nearest to ``b @ a``: ``s'·B'·A' = trunc(B·A)``.

    With ``U Σ Vᵀ`` as above, ``A' = c·Vᵀ`` and ``B' = U·Σ / (s'·c)``; c is the root of the mean squared norm of the rows of
    ``old.a``. So training goes on as LoRA does: A has its usual size, its rows are orthogonal, and B carries what was learned.
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


def _truncated_svd(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """``(d, p)``, ``(p,)`` and ``(p, k)`` of ``b @ a``: its largest singular values that are not zero, at most ``rank``.

    Signs are fixed by the entry of each right vector that is largest by magnitude: it is positive.
    """
    left_basis, left_core = torch.linalg.qr(b)
    right_basis, right_core = torch.linalg.qr(a.t())
    left, values, right = torch.linalg.svd(left_core @ right_core.t(), full_matrices=False)
    count = min(rank, int((values > values[0] * _NOTHING).sum()))
    rows = right[:count] @ right_basis.t()
    signs = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
    return left_basis @ (left[:, :count] * signs.t()), values[:count], rows * signs


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
    for _ in range(count):
        for _ in range(2):  # the second time takes off what rounding left
            rest = rest - (rest @ found.t()) @ found
        norms = rest.norm(dim=1)
        best = int((norms > norms.max() * (1 - 1e-6)).nonzero()[0])  # of equals the first
        found = torch.cat([found, (rest[best] / norms[best])[None]])
    return found[len(rows) :]
