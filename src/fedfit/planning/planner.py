"""From a problem to a plan: ranks, frequencies, their costs, and each device's limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfit.planning.feasible import BINDINGS, binding, binding_at, limits_at
from fedfit.planning.problem import Problem, charges
from fedfit.planning.solvers import at_frequency, exact
from fedfit.plans import Charge


@dataclass(frozen=True)
class Solution:
    """A plan for a whole fleet; arrays ``(devices,)``.

    ``own_rank`` is each device's highest, r_i*, 0 where it can do none; ``rank`` is what it is given: the common one, or its
    own; 0 where it has none. Frequencies, their range and charges are NaN there. ``binding`` holds codes of ``BINDINGS``: what
    stops the device's own next rank.
    """

    own_rank: np.ndarray
    rank: np.ndarray
    common_rank: int | None
    frequency_hz: np.ndarray
    low_hz: np.ndarray
    high_hz: np.ndarray
    cost: Charge[np.ndarray]
    binding: np.ndarray

    def binding_of(self, row: int) -> str:
        """What stops the next rank, as a word."""
        return BINDINGS[int(self.binding[row])]


def solve(problem: Problem, own_rank: np.ndarray, *, common: bool, frequency: str = "least_energy") -> Solution:
    """Gives every device of rank 1 or more its rank: the least of all own ranks where ``common``, else its own.

    Args:
        own_rank: by a solver.
        frequency: ``least_energy`` takes f_lo, the lowest that keeps the deadline; ``fastest`` the highest that budget and CPU
            allow. Without a deadline the lowest would never finish, so the fastest is taken.
    """
    rank = given_ranks(own_rank, common=common)
    there = rank > 0
    limits = limits_at(problem, np.maximum(rank, 1))
    low, high = _or_nan(there, limits.low_hz), _or_nan(there, limits.high_hz)
    chosen = high if frequency == "fastest" else np.where(low > 0, low, high)
    chosen = np.minimum(chosen, problem.max_frequency_hz)  # only a rank that is not feasible asks for more
    chosen = _within_limits(problem, np.maximum(rank, 1), chosen, low, high)
    stops = np.where(there, binding(problem, own_rank), 0)
    return _solution(problem, own_rank, rank, common, chosen, low, high, stops)


def solve_at(problem: Problem, frequency_hz: np.ndarray, *, common: bool) -> Solution:
    """The paper's baseline: frequencies are given, and ranks are the best for them."""
    own_rank = at_frequency(problem, frequency_hz)
    rank = given_ranks(own_rank, common=common)
    there = rank > 0
    chosen = _or_nan(there, frequency_hz)
    stops = np.where(there, binding_at(problem, own_rank, frequency_hz), 0)
    return _solution(problem, own_rank, rank, common, chosen, chosen, chosen, stops)


def solve_exactly(problem: Problem, *, common: bool, frequency: str = "least_energy") -> Solution:
    """The joint choice of rank and frequency, by bisection."""
    return solve(problem, exact(problem), common=common, frequency=frequency)


def given_ranks(own_rank: np.ndarray, *, common: bool) -> np.ndarray:
    """``r = min_i r_i*`` over the devices that can do any, or each its own."""
    there = own_rank > 0
    if not common or not there.any():
        return own_rank.copy()
    return np.where(there, own_rank[there].min(), 0)


def _solution(
    problem: Problem,
    own_rank: np.ndarray,
    rank: np.ndarray,
    common: bool,
    frequency_hz: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    stops: np.ndarray,
) -> Solution:
    there = rank > 0
    with np.errstate(all="ignore"):
        cost = charges(problem, np.where(there, rank, 1), frequency_hz)
    shared = int(rank[there].min()) if common and there.any() else None
    return Solution(own_rank, rank, shared, frequency_hz, low, high, cost, stops)


def _within_limits(
    problem: Problem, rank: np.ndarray, frequency_hz: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Moves a frequency at an end of its range inwards by units in the last place, until the sums keep the limits as well.

    An end is the root of a constraint, and the sum that is then compared with the limit rounds either way.
    """
    settled, rows = frequency_hz.copy(), np.arange(len(problem))
    for doubling in range(8):
        part, chosen = problem.take(rows), settled[rows]
        with np.errstate(all="ignore"):
            cost = charges(part, rank[rows], chosen)
            late, dear = cost.latency_s > part.deadline_s, cost.energy_j > part.energy_budget_j
        step = np.finfo(np.float64).eps * 2.0**doubling
        chosen = np.where(late & ~dear, np.minimum(chosen * (1 + step), high[rows]), chosen)
        settled[rows] = np.where(dear & ~late, np.maximum(chosen * (1 - step), low[rows]), chosen)
        rows = rows[late != dear]
        if len(rows) == 0:
            break
    return settled


def _or_nan(there: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(there, values, np.nan)
