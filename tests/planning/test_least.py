"""The least deadline and energy of a rank, and the sentence for devices that cannot do rank 1."""

import re
from dataclasses import replace

import numpy as np
from hypothesis import given, settings

from fedfit.planning.feasible import feasible, feasible_at, limits_at
from fedfit.planning.least import least, least_for_some, least_of_both, round_up, why_infeasible
from fedfit.planning.problem import Problem, charges
from fedfit.planning.solvers import random_frequencies
from tests.planning.problems import with_limits

from .problems import ANY, ORDINARY, extreme, ordinary


def does(problem: Problem, rank: int, deadline_s: np.ndarray, energy_j: np.ndarray) -> np.ndarray:
    return feasible(with_limits(problem, deadline_s, energy_j), rank)


@settings(max_examples=120, deadline=None)
@given(ORDINARY)
def test_the_least_does_and_less_does_not(problem: Problem) -> None:
    """1e-9 more does (a sum may round past the least itself), 1e-6 less does not."""
    for rank in (1, 2, 17):
        found = least(problem, rank)
        some = np.isfinite(found.deadline_s)
        assert does(problem, rank, found.deadline_s * (1 + 1e-9), problem.energy_budget_j)[some].all()
        assert not does(problem, rank, found.deadline_s * (1 - 1e-6), problem.energy_budget_j)[some].any()
        some = np.isfinite(found.energy_j)
        assert does(problem, rank, problem.deadline_s, found.energy_j * (1 + 1e-9))[some].all()
        assert not does(problem, rank, problem.deadline_s, found.energy_j * (1 - 1e-6))[some].any()


@settings(max_examples=120, deadline=None)
@given(ANY)
def test_infinite_exactly_where_no_limit_would_do(problem: Problem) -> None:
    found, endless = least(problem, 3), np.full(len(problem), np.inf)
    # Time without end needs only energy beyond radio and circuit; energy without end only time at f_max.
    enough_time = does(problem, 3, endless, problem.energy_budget_j)
    assert (np.isfinite(found.deadline_s) == enough_time).all()
    enough_energy = does(problem, 3, problem.deadline_s, endless)
    assert (np.isfinite(found.energy_j) == enough_energy).all()


@settings(max_examples=80, deadline=None)
@given(ORDINARY)
def test_both_together_do(problem: Problem) -> None:
    found = least_of_both(problem, 5, problem.max_frequency_hz)
    assert does(problem, 5, found.deadline_s * (1 + 1e-9), found.energy_j * (1 + 1e-9)).all()


def test_the_least_energy_is_the_cheapest_of_all_frequencies() -> None:
    """Brute force over frequencies: none that keeps the deadline costs less."""
    problem = ordinary(21, 60)
    found = least(problem, 2)
    for row in np.flatnonzero(np.isfinite(found.energy_j)):
        part = problem.take(np.full(1, row))
        tried = np.geomspace(part.max_frequency_hz[0] * 1e-6, part.max_frequency_hz[0], 20_000)
        cost = charges(part, 2, tried)
        in_time = cost.latency_s <= part.deadline_s
        assert cost.energy_j[in_time].min() >= found.energy_j[row] * (1 - 1e-12)
        assert cost.energy_j[in_time].min() <= found.energy_j[row] * 1.01


NUMBER = r"([\d.e+-]+)"


def promised(problem: Problem, row: int, text: str) -> list[tuple[float, float]]:
    """Deadline and budget of every way that the sentence offers; what it leaves as it is has the device's own value."""
    own_s, own_j = float(problem.deadline_s[row]), float(problem.energy_budget_j[row])
    ways = [(float(value), own_j) for value in re.findall(rf"a deadline of {NUMBER} s with", text)]
    ways += [(own_s, float(value)) for value in re.findall(rf"a budget of {NUMBER} J within", text)]
    ways += [(float(s), float(j)) for s, j in re.findall(rf"do: {NUMBER} s and {NUMBER} J together", text)]
    return ways


def test_what_is_printed_does() -> None:
    kinds = set()
    for problem in (*(ordinary(seed, 200, highest=3) for seed in range(12)), *(extreme(seed, 200) for seed in range(12))):
        problem = problem.take(np.flatnonzero(~feasible(problem, 1)))
        for row, text in enumerate(why_infeasible(problem)):
            part = problem.take(np.full(1, row))
            ways = promised(problem, row, text)
            for deadline_s, energy_j in ways:
                assert feasible(with_limits(part, deadline_s, energy_j), 1)[0], text
            dead = part.uplink_bits_per_s[0] == 0 or part.downlink_bits_per_s[0] == 0
            assert ("carries nothing" in text) == dead == (not ways)
            kinds.add((len(ways), "together" in text))
    assert kinds == {(0, False), (1, False), (1, True), (2, False)}


def test_what_is_printed_of_a_drawn_frequency_does() -> None:
    """A deadline that helps at the best frequency may not help at the drawn one."""
    problem = ordinary(4, 400)
    drawn = random_frequencies(problem.max_frequency_hz, 0.1, 8)
    rows = np.flatnonzero(~feasible_at(problem, 1, drawn))
    assert len(rows) > 20
    for row, text in zip(rows.tolist(), why_infeasible(problem.take(rows), drawn[rows]), strict=True):
        part = problem.take(np.full(1, row))
        assert "at the frequency drawn" in text
        for deadline_s, energy_j in promised(problem, row, text):
            assert feasible_at(with_limits(part, deadline_s, energy_j), 1, drawn[row : row + 1])[0], text


def test_rounded_up_by_less_than_two_parts_in_a_hundred_thousand() -> None:
    for value in (*(10 ** np.random.default_rng(0).uniform(-12, 12, 3000)), 1.0, 12.5, 999999.6, 9.999999, 1.000005):
        assert 0 < float(round_up(value)) / value - 1 < 2e-5
        assert len(round_up(value).replace(".", "").split("e")[0].strip("0")) <= 6


def test_a_longer_deadline_never_costs_energy() -> None:
    problem = ordinary(2, 300)
    tight, loose = least(problem, 2), least(replace(problem, deadline_s=problem.deadline_s * 2), 2)
    assert (loose.energy_j <= tight.energy_j).all()
    assert (limits_at(problem, 2).low_hz > 0).all()


def offers(text: str, problem: Problem) -> list[tuple[float | np.ndarray, float | np.ndarray, str]]:
    """Deadline, budget and for whom, of every way in a sentence of ``least_for_some``."""
    ways: list[tuple[float | np.ndarray, float | np.ndarray, str]] = []
    for value, whom in re.findall(rf"a deadline of {NUMBER} s would do for (all|one)", text):
        ways.append((float(value), problem.energy_budget_j, whom))
    for value, whom in re.findall(rf"a budget of {NUMBER} J for each would do for (all|one)", text):
        ways.append((problem.deadline_s, float(value), whom))
    for seconds, joules, whom in re.findall(rf"{NUMBER} s and {NUMBER} J together would do for (all|one)", text):
        ways.append((float(seconds), float(joules), whom))
    return ways


def shortened(problem: Problem, count: int) -> Problem:
    """``count`` devices of ``problem`` that cannot do rank 1 and have one deadline, as a fleet has."""
    unable = problem.take(np.flatnonzero(~feasible(problem, 1))[:count])
    together = with_limits(unable, unable.deadline_s.min(initial=np.inf), unable.energy_budget_j)
    return together


def test_what_is_offered_to_a_fleet_of_which_nobody_can_does_and_no_less() -> None:
    seen = set()
    for seed in range(60):
        for problem in (shortened(ordinary(seed, 40, 3), 1 + seed % 4), shortened(extreme(seed, 40, 3), 1 + seed % 4)):
            if len(problem) == 0 or feasible(problem, 1).any():
                continue
            text = least_for_some(problem)
            ways = offers(text, problem)
            dead = (problem.uplink_bits_per_s == 0) | (problem.downlink_bits_per_s == 0)
            assert dead.all() == ("no limits would do" in text) == (not ways), text
            for deadline_s, energy_j, whom in ways:
                can = feasible(with_limits(problem, deadline_s, energy_j), 1)
                assert can.all() if whom == "all" else can.any(), text
                if "together" not in text:
                    scale = 1 - 3e-5 if np.isscalar(deadline_s) else 1.0
                    less_j = energy_j if scale < 1 else energy_j * (1 - 3e-5)
                    could = feasible(with_limits(problem, deadline_s * scale, less_j), 1)
                    assert not (could.all() if whom == "all" else could.any()), text
            seen |= {(whom, "together" in text) for *_, whom in ways}
    assert seen == {("all", False), ("one", False), ("all", True), ("one", True)}


def test_what_is_offered_at_drawn_frequencies_does() -> None:
    problem = ordinary(4, 400)
    drawn = random_frequencies(problem.max_frequency_hz, 0.1, 8)
    rows = np.flatnonzero(~feasible_at(problem, 1, drawn))[:5]
    part = with_limits(problem.take(rows), float(problem.deadline_s[rows].min()), problem.energy_budget_j[rows])
    ways = offers(least_for_some(part, drawn[rows]), part)
    assert ways
    for deadline_s, energy_j, whom in ways:
        can = feasible_at(with_limits(part, deadline_s, energy_j), 1, drawn[rows])
        assert can.all() if whom == "all" else can.any()
