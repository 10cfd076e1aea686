"""The frequency that a plan gives: by the charges themselves it keeps the limits, although it is the root of one of them."""

from dataclasses import replace

import numpy as np

from fedfit.planning.feasible import limits_at
from fedfit.planning.planner import solve, solve_exactly
from fedfit.planning.problem import Problem, charges
from fedfit.planning.solvers import exact

from .problems import ordinary

SPARE = 1e-9


def wide(problem: Problem) -> Problem:
    """Devices whose range of frequencies at their own rank is wider than a rounding error, so that a safe one exists."""
    rank = exact(problem)
    limits = limits_at(problem, np.maximum(rank, 1))
    return problem.take(np.flatnonzero((rank > 0) & (limits.low_hz * (1 + SPARE) < limits.high_hz)))


def test_the_least_energy_is_in_time_to_the_last_bit() -> None:
    """``f_lo`` is the root of C1, and the sum of the three times may round past T0: 4,000 devices, none of them late."""
    problem = wide(ordinary(31, 6000))
    assert len(problem) > 4000
    plan = solve_exactly(problem, common=False)
    root_s = charges(problem, plan.rank, plan.low_hz).latency_s
    assert (root_s > problem.deadline_s).sum() > 200  # the root alone would be late
    assert (plan.cost.latency_s <= problem.deadline_s).all()
    assert (np.abs(plan.frequency_hz / plan.low_hz - 1) < 1e-13).all()


def test_the_fastest_is_within_budget_to_the_last_bit() -> None:
    """``f_hi`` is the root of C2, and the sum of the energies may round past E0."""
    problem = wide(ordinary(32, 6000))
    plan = solve_exactly(problem, common=False, frequency="fastest")
    root_j = charges(problem, plan.rank, plan.high_hz).energy_j
    assert (root_j > problem.energy_budget_j).sum() > 100
    assert (plan.cost.energy_j <= problem.energy_budget_j).all()
    assert (np.abs(plan.frequency_hz / plan.high_hz - 1) < 1e-13).all()


def test_where_the_radio_takes_most_of_the_deadline_or_the_budget_as_well() -> None:
    """Computing has a fiftieth of the limit, so a unit in the last place of the sum is fifty of the frequency."""
    problem = ordinary(33, 6000)
    cost = charges(problem, 1, problem.max_frequency_hz / 2)
    radio_s, radio_j = cost.uplink_s + cost.downlink_s, cost.uplink_j + cost.circuit_j
    ample = np.full(len(problem), np.inf)
    one = np.ones(len(problem), dtype=np.int64)
    late = replace(problem, deadline_s=radio_s * (1 + 1 / 50), energy_budget_j=ample, max_rank=one)
    late = wide(late)
    assert len(late) > 500
    plan = solve_exactly(late, common=False)
    assert (plan.cost.latency_s <= late.deadline_s).all()
    dear = wide(replace(problem, energy_budget_j=radio_j * (1 + 1 / 50), deadline_s=ample, max_rank=one))
    assert len(dear) > 500
    plan = solve_exactly(dear, common=False, frequency="fastest")
    assert (plan.cost.energy_j <= dear.energy_budget_j).all()


def test_the_frequency_stays_in_its_range_where_that_is_a_rounding_error_wide() -> None:
    """Deadline and budget are what rank 1 takes at one and the same frequency: only that one does, and both sums may round."""
    problem = ordinary(34, 6000)
    cost = charges(problem, 1, problem.max_frequency_hz * 0.3)
    tight = replace(problem, deadline_s=cost.latency_s, energy_budget_j=cost.energy_j)
    for frequency in ("least_energy", "fastest"):
        own = exact(tight)
        plan = solve(tight, np.where(own > 0, 1, 0), common=False, frequency=frequency)
        there = plan.rank > 0
        assert there.sum() > 1000
        assert (plan.low_hz <= plan.frequency_hz)[there].all()
        assert (plan.frequency_hz <= plan.high_hz)[there].all()
