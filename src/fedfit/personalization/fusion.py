"""AdaFusion: two adapters weighted into one, with weights that a search without gradients finds on a few samples.

FDLoRA (arXiv 2406.07925), after LoraHub (Huang et al., 2023, arXiv 2307.13269). Over ``(w1, w2) ∈ [−1.5, 1.5]²``:

    factor-wise    A = w1·A_p + w2·A_s,   B = w1·B_p + w2·B_s                    (the paper)
    product-wise   s·B·A = w1·s_p·B_p·A_p + w2·s_s·B_s·A_s, exact, at rank r_p + r_s

least few-shot loss ``+ λ·|w|``, |w| the sum or the mean of |w1| and |w2|. A head, which has no factors, is weighted as A
and B are.

The paper starts nowhere in particular. Here both adapters alone, ``(1, 0)`` and ``(0, 1)``, and their mean are measured
first, and the best point wins of those whose few-shot loss is not above that of the better adapter alone. So the fused
adapter is never worse on the few-shot part than either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedfit.core.update import PAIRS, Factors, Update

BOUND = 1.5
Weights = tuple[float, float]
"""Of the personal and of the shared adapter."""

_METHODS = {"nelder_mead": "Nelder-Mead", "cobyqa": "COBYQA"}
_CORNERS: tuple[Weights, ...] = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Fusion:
    """What a search found: the weights, the few-shot loss there, and the number of points measured.

    ``failed`` says why a device fell back to one of the two; empty where it did not.
    """

    weights: Weights
    loss: float
    evaluations: int
    failed: str = ""


def search(
    loss_of: Callable[[Weights], float], evaluations: int, penalty: float, *, mean: bool, optimizer: str = "nelder_mead"
) -> Fusion:
    """The weights of the least penalised loss within ``evaluations`` calls of ``loss_of``.

    Args:
        loss_of: few-shot loss at weights; NaN where it is not finite.
        penalty: λ, of the sum of |w1| and |w2|, or of their ``mean``.
        optimizer: ``nelder_mead`` or ``cobyqa``, of scipy.
    """
    measured: dict[Weights, float] = {}

    def measure(weights: Weights) -> float:
        if weights not in measured:
            measured[weights] = loss_of(weights)
        return objective(weights)

    def objective(weights: Weights) -> float:
        loss = measured[weights]
        size = abs(weights[0]) + abs(weights[1])
        return math.inf if math.isnan(loss) else loss + penalty * (size / 2 if mean else size)

    for corner in _CORNERS[:evaluations]:
        measure(corner)
    best = min(measured, key=objective)
    if evaluations > len(measured):
        _minimize(measure, best, evaluations - len(measured), optimizer)
    alone = [measured[corner] for corner in _CORNERS[:2] if corner in measured and not math.isnan(measured[corner])]
    if not alone:
        return Fusion((0.0, 1.0), math.nan, len(measured), "the few-shot loss is not finite")
    fair = [weights for weights, loss in measured.items() if not math.isnan(loss) and loss <= min(alone)]
    found = min(fair, key=objective)
    return Fusion(found, measured[found], len(measured))


def _minimize(measure: Callable[[Weights], float], start: Weights, budget: int, optimizer: str) -> None:
    """Searches from ``start``; the caller remembers every point. Points outside the bounds are never asked for."""
    from scipy.optimize import Bounds, minimize  # here: a run without fusion does not need scipy

    class _Spent(Exception):
        pass

    asked = 0

    def at(point: np.ndarray) -> float:
        nonlocal asked
        if asked >= budget:
            raise _Spent
        asked += 1
        clipped = np.clip(point, -BOUND, BOUND)
        value = measure((float(clipped[0]), float(clipped[1])))
        return value if math.isfinite(value) else 1e9  # COBYQA models the function, and cannot model infinity

    bounds = Bounds([-BOUND, -BOUND], [BOUND, BOUND])
    simplex = np.array([start, (start[0] + 0.3, start[1]), (start[0], start[1] + 0.3)])
    options: dict[str, object] = {"maxfev": budget}
    if optimizer == "nelder_mead":
        options |= {"initial_simplex": np.clip(simplex, -BOUND, BOUND), "xatol": 1e-3, "fatol": 1e-5}
    with suppress(_Spent):
        minimize(at, np.array(start), method=_METHODS[optimizer], bounds=bounds, options=options)


def fuse(personal: Update, shared: Update, weights: Weights, *, products: bool) -> Update:
    """The two adapters as one at ``weights``."""
    rest = {
        group: {name: _sum(tensor, shared.groups[group][name], weights) for name, tensor in tensors.items()}
        for group, tensors in personal.groups.items()
        if group not in PAIRS
    }
    one = _products if products else _factors
    pairs = {name: one(pair, shared.factors[name], weights) for name, pair in personal.factors.items()}
    return shared.with_factors(pairs).with_groups(rest)


def _sum(personal: Tensor, shared: Tensor, weights: Weights) -> Tensor:
    return weights[0] * personal + weights[1] * shared


def _factors(personal: Factors, shared: Factors, weights: Weights) -> Factors:
    """At the higher of the two ranks, the lower filled up with zeros; at the shared scale, to which B_p is brought."""
    rank = max(len(personal.a), len(shared.a))
    b_p = _filled(personal.b * (personal.scale / shared.scale), rank, 1)
    a_p, a_s, b_s = _filled(personal.a, rank, 0), _filled(shared.a, rank, 0), _filled(shared.b, rank, 1)
    return Factors(_sum(a_p, a_s, weights), _sum(b_p, b_s, weights), shared.scale)


def _filled(factor: Tensor, rank: int, axis: int) -> Tensor:
    if factor.shape[axis] == rank:
        return factor
    shape = list(factor.shape)
    shape[axis] = rank - shape[axis]
    return torch.cat([factor, factor.new_zeros(shape)], dim=axis)


def _products(personal: Factors, shared: Factors, weights: Weights) -> Factors:
    """The sum of the products, as one pair of both ranks together, at the shared scale."""
    b_p = personal.b * (weights[0] * personal.scale / shared.scale)
    return Factors(torch.cat([personal.a, shared.a]), torch.cat([b_p, weights[1] * shared.b], dim=1), shared.scale)
