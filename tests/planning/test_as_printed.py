"""Algorithm 1 as the paper prints it, pinned on a fleet small enough to follow by hand.

d = k = 8, one matrix of one layer, 1 bit a parameter, 1 sample. Eq. 2: C = 64·(2r − 1) cycles. Printed eq. 5: M =
8·(r + 8) bits; as it must read: M = 16·r. All rates 160 bit/s (16 Hz, signal-to-noise ratio 1023), so the radio, up and down,
takes 8·(r + 8)/80 = (r + 8)/10 s as printed and 16·r/80 = r/5 s in truth. f_max = 64 Hz, so C/f_max = 2r − 1 s. Energy is
ample.

T0 = 10 s. Printed upper end (eq. 23 at r = 1): 10 − 1 − 0.9 = 8.1, rounded up 9.
    [1, 9]: r = 5: 9 + 1.3 > 10, no. [1, 5]: r = 3: 5 + 1.1 ≤ 10, yes. [3, 5]: r = 4: 7 + 1.2 ≤ 10, yes. [4, 5]: returns 5.
In truth: r = 4: 7 + 0.8 ≤ 10. r = 5: 9 + 1.0 ≤ 10, which is just feasible, so the printed count also misjudges it.
T0 = 9.5 s: upper end ceil(7.6) = 8. [1, 8]: 4: 7 + 1.2 ≤ 9.5. [4, 8]: 6: 11 s, no. [4, 6]: 5: 10.3, no. Returns 5, which takes
    9 + 1.0 = 10 s > 9.5 s: the deadline is broken. The highest feasible rank is 4.
T0 = 1 s: rank 1 takes 1 + 0.2 s, so no rank is feasible; upper end max(ceil(−0.9), 2) = 2, nothing is tested, returns 2.
"""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fedfit.planning.feasible import feasible
from fedfit.planning.problem import Problem
from fedfit.planning.solvers import as_printed, printed_upper_end
from tests.cli.command import fedfit

from .problems import ANY, ordinary

FLEET = """
[adaptation]
input_dim = 8
output_dim = 8
matrices_per_layer = 1
layers = 1
bits_per_parameter = 1

[round]
deadline_s = {deadline_s}

[fleet]
devices = 1
samples = 1
max_frequency_hz = 64
capacitance = 1e-28
energy_budget_j = 500
circuit_energy_j = 0
transmit_power_w = 1
downlink_power_w = 1
uplink_bandwidth_hz = 16
downlink_bandwidth_hz = 16
uplink_gain = 1.023e-9
downlink_gain = 1.023e-9
noise_w = 1e-12
"""


@pytest.fixture
def plan_at(tmp_path: Path):  # type: ignore[no-untyped-def]
    def plan(deadline_s: float, solver: str):  # type: ignore[no-untyped-def]
        path = tmp_path / "fleet.toml"
        path.write_text(FLEET.format(deadline_s=deadline_s))
        return fedfit("plan", path, "--solver", solver, "--json")

    return plan


def test_it_returns_a_rank_that_breaks_the_deadline(plan_at) -> None:  # type: ignore[no-untyped-def]
    answer = plan_at(9.5, "as_printed").json
    (device,) = answer["devices"]
    assert (answer["rank"], device["breaks"], device["frequency_hz"]) == (5, ["deadline"], 64.0)
    assert device["latency_s"]["total"] == pytest.approx(10.0, rel=1e-12)
    assert plan_at(9.5, "exact").json["rank"] == 4


def test_it_is_right_by_accident_at_most(plan_at) -> None:  # type: ignore[no-untyped-def]
    """At 10.001 s its two mistakes meet: it returns 5, which is feasible (10 s)."""
    answer = plan_at(10.001, "as_printed").json
    assert (answer["rank"], answer["devices"][0]["breaks"]) == (5, [])
    assert plan_at(10.001, "exact").json["rank"] == 5


def test_it_gives_rank_2_where_rank_1_is_too_much(plan_at) -> None:  # type: ignore[no-untyped-def]
    answer = plan_at(1.0, "as_printed")
    assert (answer.status, answer.json["rank"], answer.json["infeasible"]) == (0, 2, [])
    assert answer.json["devices"][0]["breaks"] == ["deadline"]
    honest = plan_at(1.0, "exact")
    assert (honest.status, honest.json["rank"], len(honest.json["infeasible"])) == (2, None, 1)


def test_a_dead_link_and_an_endless_deadline_do_not_stop_it(plan_at) -> None:  # type: ignore[no-untyped-def]
    """An upper end that is no number of ranks. Without a deadline the first rank that spends 500 J on 1 W of radio is returned:
    M/160 = 500 at M = 80,000 = 8·(9,992 + 8). A dead link leaves nothing to search, so 2.
    """
    answer = plan_at(1e300, "as_printed")
    assert (answer.status, answer.json["rank"]) == (0, 9992)
    dead = fedfit("plan", "three-devices", "fleet.uplink_gain=5e-324", "--solver", "as_printed", "--json")
    assert dead.json["rank"] == 2
    assert "deadline" in dead.json["devices"][0]["breaks"]


def printed(problem: Problem, more: float = 1.5) -> Callable[[int], np.ndarray]:
    """A printed M·Q for any problem: that of the true eq. 5, and ``more - 1`` times its rank 1 beside it."""
    return lambda rank: problem.uplink_bits(rank) + (more - 1) * problem.uplink_bits(1)


def word_for_word(problem: Problem, upper: int) -> int:
    """Algorithm 1, lines 3 to 11, of the one device of ``problem``, in plain integers."""
    low, high = 1, upper
    bits_of = printed(problem)
    while high - low > 1:
        middle = (low + high) // 2
        bits = bits_of(1) + (middle - 1) * (bits_of(2) - bits_of(1))
        nothing = np.zeros(1)
        part = replace(
            problem,
            uplink_bits_fixed=bits,
            uplink_bits_per_rank=nothing,
            downlink_bits_fixed=bits,
            downlink_bits_per_rank=nothing,
        )
        low, high = (middle, high) if feasible(part, middle)[0] else (low, middle)
    return high


def one(problem: Problem, row: int) -> Problem:
    return problem.take(np.full(1, row))


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_a_device_gets_in_the_fleet_what_it_gets_alone(problem: Problem) -> None:
    """The fleet shares the upper end of eq. 23 and nothing else: each search is that of the algorithm run by itself."""
    upper = min(printed_upper_end(problem, printed(problem)), 10**6)
    found = as_printed(problem, printed(problem), upper)
    for row, rank in enumerate(found.tolist()):
        part = one(problem, row)
        assert rank == word_for_word(part, upper) == as_printed(part, printed(part), upper)[0]


def test_no_device_gets_less_than_rank_2_whatever_the_others_search() -> None:
    """[1, 2] is closed: rank 1 is never tested, so a device that can do none gets 2, beside devices that search to 900."""
    problem = ordinary(7, 200)
    for upper in (2, 3, 10, 900):
        assert as_printed(problem, printed(problem), upper).min() == 2


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_the_upper_end_is_the_greatest_of_the_devices(problem: Problem) -> None:
    """Equation 23 in plain floats: seconds that are left at rank 1, rounded up, of the device with the most, and at least 2."""
    ends = []
    for row in range(len(problem)):
        part = one(problem, row)
        with np.errstate(all="ignore"):
            radio_s = printed(part)(1) * (1 / part.uplink_bits_per_s + 1 / part.downlink_bits_per_s)
            left_s = float((part.deadline_s - part.cycles(1) / part.max_frequency_hz - radio_s)[0])
        alone = printed_upper_end(part, printed(part))
        assert alone == (2 if not left_s > 1 else 2**61 if left_s > 2**61 else max(2, ceil(left_s)))
        ends.append(alone)
    assert printed_upper_end(problem, printed(problem)) == max(ends)
