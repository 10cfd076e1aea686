"""An adapter at another rank: its product is kept exactly when the rank grows, as nearly as possible when it falls.

What is kept is the product with its scale, ``s·B·A``: scales follow the rank (α/r, α/√r), the function of the model must not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedfit.aggregation.low_rank import nearest_factors
from fedfit.core.update import AdapterSize, Factors, Update
from fedfit.randomness import derive_seed


def resize_factors(factors: Factors, size: AdapterSize, seed: int) -> Factors:
    """The pair at ``size``.

    * Down: the nearest product of that rank, split between A and B as ``low_rank.nearest_factors`` says.
    * Up: old rows and columns stay, B rescaled by s/s'. New columns of B are zero, so the product is as it was; new rows of A
      are drawn from ``seed`` as PEFT draws them, U(±1/√k). They must not be zero as well: ``∂B ∝ A`` and ``∂A ∝ B``, so a
      pair of zeros gets no gradient, ever.
    * Same rank: B rescaled; the very same object when the scale is the same too.

    Raises:
        ValueError: for a rank below 1.
    """
    rank = len(factors.a)
    if size.rank < 1:
        raise ValueError(f"an adapter of rank {size.rank}")
    if size == AdapterSize(rank, factors.scale):
        return factors
    if size.rank < rank:
        return nearest_factors(factors.b.double() * factors.scale, factors.a.double(), size, factors)
    b = (factors.b.double() * (factors.scale / size.scale)).to(factors.b.dtype)
    added = size.rank - rank
    a = torch.cat([factors.a, fresh_rows(factors.a, added, seed)])
    return Factors(a, torch.cat([b, b.new_zeros(len(b), added)], dim=1), size.scale)


def resize_update(update: Update, size: AdapterSize, seed: int) -> Update:
    """Every module of ``update`` at ``size``; the head as it is. The very same object when nothing changes."""
    resized = {n: resize_factors(pair, size, derive_seed(seed, "resize", n)) for n, pair in update.factors.items()}
    return update if _unchanged(update.factors, resized) else update.with_factors(resized)


def _unchanged(old: Mapping[str, Factors], new: Mapping[str, Factors]) -> bool:
    return all(new[name] is pair for name, pair in old.items())


def fresh_rows(like: Tensor, count: int, seed: int) -> Tensor:
    """``(count, input)`` by ``kaiming_uniform_`` with a = √5, as ``nn.Linear`` and PEFT have it: uniform within ±1/√k."""
    inputs = like.shape[1]
    rows = torch.rand(count, inputs, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (rows / math.sqrt(inputs)).to(like)
