"""The solvers against each other, against exact fractions, and against a scan of frequencies."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.planning.feasible import BINDINGS, binding, binding_at, feasible, feasible_at, limits_at
from fedfit.planning.planner import given_ranks, solve_at, solve_exactly
from fedfit.planning.problem import Problem, charges
from fedfit.planning.solvers import at_frequency, exact, exhaustive, random_frequencies

from .problems import ANY, EDGE, EXTREME, ORDINARY, SEEDS, extreme, oracle_rank, ordinary, some_frequency_does


def quiet() -> np.errstate:
    """Divisions by nothing give infinities, as they should."""
    return np.errstate(all="ignore")


@settings(max_examples=300, deadline=None)
@given(ANY)
def test_bisection_finds_what_trying_every_rank_finds(problem: Problem) -> None:
    assert exact(problem).tolist() == exhaustive(problem).tolist()


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_feasibility_never_comes_back(problem: Problem) -> None:
    """What ``feasible`` says of monotony in floats, rank by rank, beyond ``max_rank`` as well, and at a given frequency."""
    could = could_at = np.ones(len(problem), dtype=bool)
    for rank in range(1, 130):
        can, can_at = feasible(problem, rank), feasible_at(problem, rank, problem.max_frequency_hz * 0.7)
        assert not (can & ~could).any()
        assert not (can_at & ~could_at).any()
        could, could_at = can, can_at


def test_feasibility_is_monotone_where_it_is_hardest() -> None:
    """A rank costs less than a unit in the last place of what is fixed, so whole runs of ranks cost the same; and the limits
    stand exactly on one of their sums."""
    draw, count = np.random.default_rng(5), 4000
    one = np.ones(count)
    problem = Problem(
        cycles_fixed=draw.uniform(1, 2, count) * 1e9,
        cycles_per_rank=draw.uniform(0, 2, count) * 1e-7,
        uplink_bits_fixed=draw.uniform(1, 2, count) * 1e6,
        uplink_bits_per_rank=draw.uniform(0, 2, count) * 1e-10,
        downlink_bits_fixed=draw.uniform(1, 2, count) * 1e6,
        downlink_bits_per_rank=draw.uniform(0, 2, count) * 1e-10,
        uplink_bits_per_s=draw.uniform(1, 2, count) * 1e6,
        downlink_bits_per_s=draw.uniform(1, 2, count) * 1e6,
        transmit_power_w=draw.uniform(0, 1, count),
        circuit_energy_j=draw.uniform(0, 1, count),
        capacitance=draw.uniform(1, 2, count) * 1e-27,
        max_frequency_hz=draw.uniform(1, 2, count) * 1e9,
        energy_budget_j=one,
        deadline_s=one,
        max_rank=np.full(count, 64),
    )
    cost = charges(problem, draw.integers(1, 65, count), problem.max_frequency_hz)
    loose = np.where(draw.integers(0, 2, count), 1.0, 5.0)
    tight = replace(problem, deadline_s=cost.latency_s, energy_budget_j=cost.energy_j * loose)
    ranks = exact(tight)
    assert ranks.tolist() == exhaustive(tight).tolist()
    assert ((ranks > 0) & (ranks < 64)).sum() > 100  # the last place does decide


def test_ranks_are_those_of_exact_arithmetic() -> None:
    """2,400 devices against fractions. Where a change of 1e-9 of the limits changes the answer either will do; rare."""
    edge = devices = 0
    for seed in range(60):
        problem = ordinary(seed, 40)
        edge += held_to_fractions(problem)
        devices += len(problem)
    assert devices == 2400
    assert edge <= 2


@settings(max_examples=60, deadline=None)
@given(EXTREME)
def test_extreme_devices_are_those_of_exact_arithmetic(problem: Problem) -> None:
    held_to_fractions(problem)  # many stand on an edge: that is how they are made


def held_to_fractions(problem: Problem) -> int:
    """Compares both solvers with the oracle; the number of devices on an edge."""
    edge = 0
    for row, (fast, slow) in enumerate(zip(exact(problem).tolist(), exhaustive(problem).tolist(), strict=True)):
        low, high = oracle_rank(problem, row, 1 - EDGE), oracle_rank(problem, row, 1 + EDGE)
        edge += low != high
        assert fast == slow
        assert low <= fast <= high
    return edge


@settings(max_examples=150, deadline=None)
@given(ANY, st.booleans(), st.sampled_from(["least_energy", "fastest"]))
def test_the_answer_keeps_every_limit(problem: Problem, common: bool, frequency: str) -> None:
    """To a unit in the last place: where only one frequency does, the sum that is compared may round past the limit."""
    solution = solve_exactly(problem, common=common, frequency=frequency)
    there = solution.rank > 0
    hz = solution.frequency_hz[there]
    assert (solution.cost.latency_s[there] <= problem.deadline_s[there] * (1 + 1e-15)).all()
    assert (solution.cost.energy_j[there] <= problem.energy_budget_j[there] * (1 + 1e-15)).all()
    assert ((hz > 0) & (hz <= problem.max_frequency_hz[there])).all()
    assert (solution.rank[there] <= problem.max_rank[there]).all()
    assert (there == (exact(problem) > 0)).all()
    assert np.isnan(solution.frequency_hz[~there]).all()


@pytest.mark.parametrize("make", [ordinary, extreme])
def test_no_frequency_does_the_next_rank(make: object) -> None:
    assert callable(make)
    problem = make(11, 120)
    with quiet():
        for row, rank in enumerate(exact(problem).tolist()):
            if rank > 0:
                assert some_frequency_does(problem, row, rank)
            if rank < problem.max_rank[row] and oracle_rank(problem, row, 1 + 2 * EDGE) == rank:
                assert not some_frequency_does(problem, row, rank + 1)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_binding_is_what_it_says(problem: Problem) -> None:
    """By the words of ``feasible.binding``, with the quantities written out from equations 15, 17 and 18."""
    ranks = exact(problem)
    codes = binding(problem, ranks)
    for row, rank in enumerate(ranks.tolist()):
        part = problem.take(np.full(1, row))
        with quiet():
            cycles, up_s = part.cycles(rank + 1), part.uplink_bits(rank + 1) / part.uplink_bits_per_s
            left_s = part.deadline_s - (up_s + part.downlink_bits(rank + 1) / part.downlink_bits_per_s)
            left_j = part.energy_budget_j - part.circuit_energy_j - part.transmit_power_w * up_s
            asked_hz, allowed_hz = cycles / left_s, np.sqrt(left_j / (part.capacitance * cycles))
        if rank >= part.max_rank[0]:
            word = "max_rank"
        elif not left_s[0] > 0:
            word = "deadline"
        elif not left_j[0] > 0:
            word = "energy"
        elif allowed_hz[0] < part.max_frequency_hz[0]:
            word = "energy"
            assert asked_hz[0] > allowed_hz[0]
        else:
            word = "frequency"
            assert asked_hz[0] > part.max_frequency_hz[0]
        assert BINDINGS[codes[row]] == word


@settings(max_examples=150, deadline=None)
@given(ORDINARY, SEEDS)
def test_mending_what_binds_mends(problem: Problem, seed: int) -> None:
    """With no limit but those that are not named, the next rank goes: the word names what stands in the way."""
    ranks = exact(problem)
    codes = binding(problem, ranks)
    limits = limits_at(problem, ranks + 1)
    both = (limits.low_hz > problem.max_frequency_hz) & (limits.low_hz > limits.energy_hz)  # two ceilings are too low
    alone = ~both & (limits.slack_s > 0) & (limits.slack_j > 0)
    mended = replace(
        problem,
        deadline_s=np.where(codes == 1, np.inf, problem.deadline_s),
        energy_budget_j=np.where(codes == 2, np.inf, problem.energy_budget_j),
        max_frequency_hz=np.where(codes == 3, np.inf, problem.max_frequency_hz),
        max_rank=np.where(codes == 4, ranks + 1, problem.max_rank),
    )
    assert (exact(mended)[alone & (codes != 4)] > ranks[alone & (codes != 4)]).all()


@settings(max_examples=200, deadline=None)
@given(ANY, SEEDS)
def test_best_rank_at_a_drawn_frequency(problem: Problem, seed: int) -> None:
    drawn = random_frequencies(problem.max_frequency_hz, 0.1, seed)
    assert ((drawn >= 0.1 * problem.max_frequency_hz * (1 - 1e-15)) & (drawn <= problem.max_frequency_hz)).all()
    found = at_frequency(problem, drawn)
    best = np.zeros(len(problem), dtype=np.int64)
    for rank in range(1, int(problem.max_rank.max()) + 1):
        with quiet():
            up = problem.uplink_bits(rank) / problem.uplink_bits_per_s
            down = problem.downlink_bits(rank) / problem.downlink_bits_per_s
            late = ~(problem.cycles(rank) / drawn + up + down <= problem.deadline_s) | ~np.isfinite(down) | ~np.isfinite(up)
            joules = problem.capacitance * problem.cycles(rank) * (drawn * drawn) + problem.transmit_power_w * up
            dear = ~(joules + problem.circuit_energy_j <= problem.energy_budget_j)
        best[~late & ~dear & (rank <= problem.max_rank)] = rank
    assert found.tolist() == best.tolist()
    # Never above the joint choice, except by the rounding of a sum that stands on its limit.
    above = found > exact(problem)
    loose = exact(replace(problem, deadline_s=problem.deadline_s * (1 + 1e-12), energy_budget_j=_wider(problem)))
    assert (found <= loose).all()
    assert not above.any() or (loose > exact(problem))[above].all()


def _wider(problem: Problem) -> np.ndarray:
    return np.asarray(problem.energy_budget_j * (1 + 1e-12))


def test_binding_at_a_drawn_frequency() -> None:
    problem = ordinary(3, 500)
    drawn = random_frequencies(problem.max_frequency_hz, 0.1, 1)
    solution = solve_at(problem, drawn, common=False)
    late = charges(problem, solution.own_rank + 1, drawn).latency_s > problem.deadline_s
    wanted = np.where(solution.own_rank >= problem.max_rank, "max_rank", np.where(late, "deadline", "energy"))
    there = solution.own_rank > 0
    assert (np.array(BINDINGS)[binding_at(problem, solution.own_rank, drawn)] == wanted).all()
    assert [solution.binding_of(row) for row in np.flatnonzero(there).tolist()] == wanted[there].tolist()
    assert set(wanted[there]) == {"max_rank", "deadline", "energy"}


@settings(max_examples=100, deadline=None)
@given(ANY, SEEDS)
def test_a_device_is_planned_for_by_itself(problem: Problem, seed: int) -> None:
    """In another order, and alone, a device gets the same rank and frequency to the bit; the common rank is the least."""
    order = np.random.default_rng(seed).permutation(len(problem))
    for common in (False, True):
        whole, mixed = solve_exactly(problem, common=common), solve_exactly(problem.take(order), common=common)
        assert whole.common_rank == mixed.common_rank
        for name in ("own_rank", "rank", "frequency_hz", "low_hz", "high_hz", "binding"):
            np.testing.assert_array_equal(getattr(whole, name)[order], getattr(mixed, name))
    one = problem.take(order[:1])
    assert exact(one)[0] == exact(problem)[order[0]]
    able = exact(problem)[exact(problem) > 0]
    assert solve_exactly(problem, common=True).common_rank == (able.min() if len(able) else None)


def test_chunks_do_not_show() -> None:
    """More devices than one chunk holds; the same devices in smaller calls."""
    problem = ordinary(9, 40_000)
    ranks = exact(problem)
    assert ranks.tolist() == np.concatenate([exact(problem.take(slice(n, n + 7919))) for n in range(0, 40_000, 7919)]).tolist()
    drawn = random_frequencies(problem.max_frequency_hz, 0.1, 2)
    tail = at_frequency(problem.take(slice(32_000, None)), drawn[32_000:])
    assert at_frequency(problem, drawn)[32_000:].tolist() == tail.tolist()


def test_no_devices() -> None:
    nobody = ordinary(0, 3).take(slice(0, 0))
    assert exact(nobody).tolist() == exhaustive(nobody).tolist() == []
    assert solve_exactly(nobody, common=True).common_rank is None
    assert given_ranks(np.array([0, 0]), common=True).tolist() == [0, 0]


def test_problems_are_arrays_of_their_devices() -> None:
    problem = ordinary(1, 7)
    assert {len(getattr(problem, item.name)) for item in fields(problem)} == {7}
