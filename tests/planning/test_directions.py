"""Uplink and downlink counted apart: brute force over ranks and frequencies, and the bits of the count that had one M·Q."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.planning.feasible import feasible_at, limits_at
from fedfit.planning.least import least
from fedfit.planning.planner import solve_exactly
from fedfit.planning.problem import Problem, charges
from fedfit.planning.solvers import exact, exhaustive

from .problems import ANY, EDGE, SEEDS, oracle_rank, ordinary, some_frequency_does


def symmetric(problem: Problem, fixed: np.ndarray, per_rank: np.ndarray) -> Problem:
    """The same devices, which send and receive the same bits."""
    return replace(
        problem,
        uplink_bits_fixed=fixed,
        uplink_bits_per_rank=per_rank,
        downlink_bits_fixed=fixed,
        downlink_bits_per_rank=per_rank,
    )


def larger_both_ways(problem: Problem) -> Problem:
    """The larger of the two directions, planned for both."""
    fixed = np.maximum(problem.uplink_bits_fixed, problem.downlink_bits_fixed)
    return symmetric(problem, fixed, np.maximum(problem.uplink_bits_per_rank, problem.downlink_bits_per_rank))


@pytest.mark.parametrize("common", [True, False])
def test_a_joint_plan_of_a_mixed_fleet_is_that_of_brute_force(common: bool) -> None:
    """Devices that send more than they receive beside those that do the reverse: every rank, at thousands of frequencies."""
    checked = set()
    for seed in range(12):
        problem = ordinary(seed, 10, highest=12)
        plan = solve_exactly(problem, common=common)
        own = [_brute_force(problem, row) for row in range(len(problem))]
        on_an_edge = [oracle_rank(problem, row, 1 - EDGE) != oracle_rank(problem, row, 1 + EDGE) for row in range(len(problem))]
        assert not any(on_an_edge)
        assert plan.own_rank.tolist() == own
        able = [rank for rank in own if rank]
        wanted = [min(able) if common and rank else rank for rank in own]
        assert plan.rank.tolist() == wanted
        checked |= set(np.sign(problem.uplink_bits(1) - problem.downlink_bits(1)))
    assert checked >= {-1.0, 1.0}


def _brute_force(problem: Problem, row: int) -> int:
    ranks = range(1, int(problem.max_rank[row]) + 1)
    return max((rank for rank in ranks if some_frequency_does(problem, row, rank)), default=0)


@settings(max_examples=200, deadline=None)
@given(ANY, SEEDS)
def test_equal_directions_plan_to_the_bit_as_one_count_did(problem: Problem, seed: int) -> None:
    """Slacks, ends and charges, written out with one M·Q for both directions, as equation 5 has it."""
    draw = np.random.default_rng(seed)
    fixed, per_rank = problem.uplink_bits_fixed, problem.downlink_bits_per_rank
    alike, rank = symmetric(problem, fixed, per_rank), draw.integers(1, 60, len(problem))
    bits, cycles = fixed + rank * per_rank, alike.cycles(rank)
    frequency = alike.max_frequency_hz * draw.uniform(0.05, 1, len(problem))
    with np.errstate(all="ignore"):
        uplink_s, downlink_s = bits / alike.uplink_bits_per_s, bits / alike.downlink_bits_per_s
        limits, cost = limits_at(alike, rank), charges(alike, rank, frequency)
        latency_s = cycles / frequency + uplink_s + downlink_s
        computing_j = alike.capacitance * cycles * (frequency * frequency)
        energy_j = computing_j + alike.transmit_power_w * uplink_s + alike.circuit_energy_j
        slack_s = alike.deadline_s - (uplink_s + downlink_s)
        slack_j = alike.energy_budget_j - alike.circuit_energy_j - alike.transmit_power_w * uplink_s
    for found, wanted in (
        (limits.slack_s, slack_s),
        (limits.slack_j, slack_j),
        (cost.latency_s, latency_s),
        (cost.energy_j, energy_j),
    ):
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_no_device_does_less_than_with_the_larger_count_both_ways(problem: Problem) -> None:
    assert (exact(problem) >= exact(larger_both_ways(problem))).all()


def test_devices_do_more_than_with_the_larger_count_both_ways() -> None:
    problem = ordinary(2, 300)
    apart, joined = exact(problem), exact(larger_both_ways(problem))
    assert (apart > joined).sum() > 30


def test_each_direction_is_charged_by_its_own_rate_and_the_uplink_alone_by_energy() -> None:
    """By hand: 400 bits up at 100 bit/s and 900 down at 300 take 4 s and 3 s; 0.5 W of uplink take 2 J; 20 cycles at 10 Hz."""
    one = {name: np.ones(1) for name in Problem.__dataclass_fields__}
    device = Problem(**one | {"max_rank": np.array([9])})
    device = replace(
        device,
        cycles_fixed=np.array([10.0]),
        cycles_per_rank=np.array([5.0]),
        uplink_bits_fixed=np.array([100.0]),
        uplink_bits_per_rank=np.array([150.0]),
        downlink_bits_fixed=np.array([900.0]),
        downlink_bits_per_rank=np.array([0.0]),
        uplink_bits_per_s=np.array([100.0]),
        downlink_bits_per_s=np.array([300.0]),
        transmit_power_w=np.array([0.5]),
        max_frequency_hz=np.array([10.0]),
        deadline_s=np.array([9.0]),
        energy_budget_j=np.array([2.0 + 1.0 + 20.0 * 100.0]),
    )
    cost = charges(device, 2, np.array([10.0]))
    assert (cost.compute_s[0], cost.uplink_s[0], cost.downlink_s[0], cost.uplink_j[0]) == (2.0, 4.0, 3.0, 2.0)
    assert (cost.latency_s[0], cost.energy_j[0]) == (9.0, 2003.0)
    assert exact(device)[0] == 2
    assert least(device, 2).deadline_s[0] == 9.0
    swapped = replace(
        device,
        uplink_bits_fixed=device.downlink_bits_fixed,
        uplink_bits_per_rank=device.downlink_bits_per_rank,
        downlink_bits_fixed=device.uplink_bits_fixed,
        downlink_bits_per_rank=device.uplink_bits_per_rank,
    )
    assert exact(swapped)[0] == 0  # 9 s for the uplink alone


@settings(max_examples=100, deadline=None)
@given(ANY, st.sampled_from(["least_energy", "fastest"]))
def test_both_solvers_and_the_chosen_frequencies_agree(problem: Problem, frequency: str) -> None:
    """The chosen frequency does the rank by the charges themselves, or misses by the last place of a sum."""
    assert exact(problem).tolist() == exhaustive(problem).tolist()
    plan = solve_exactly(problem, common=False, frequency=frequency)
    rows = np.flatnonzero(plan.rank > 0)
    part = problem.take(rows)
    wider = replace(part, deadline_s=part.deadline_s * (1 + 1e-15), energy_budget_j=part.energy_budget_j * (1 + 1e-15))
    assert feasible_at(wider, plan.rank[rows], plan.frequency_hz[rows]).all()
