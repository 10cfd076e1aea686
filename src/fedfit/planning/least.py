"""The other way round: the least deadline, or the least energy, with which a wanted rank can be done. Closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedfit.planning.feasible import limits_at
from fedfit.planning.problem import Problem, charges


@dataclass(frozen=True)
class Least:
    """Arrays ``(devices,)``; infinite where that limit alone cannot make the rank possible.

    ``deadline_s``: the least T0 with the budget as it is. ``energy_j``: the least E0 with the deadline as it is.
    """

    deadline_s: np.ndarray
    energy_j: np.ndarray


def least(problem: Problem, rank: np.ndarray | int) -> Least:
    """What ``rank`` asks at least of deadline and of energy, each with the other as given.

    The least deadline is met at the highest frequency that budget and CPU allow; the least energy is spent at the lowest
    frequency that keeps the deadline, since energy rises with f² and time falls with 1/f.
    """
    limits = limits_at(problem, rank)
    with np.errstate(all="ignore"):
        at_high = charges(problem, rank, limits.high_hz).latency_s
        at_low = charges(problem, rank, limits.low_hz).energy_j
    in_time = (limits.slack_s > 0) & (limits.low_hz <= problem.max_frequency_hz)
    return Least(
        deadline_s=np.where(limits.slack_j > 0, at_high, np.inf),
        energy_j=np.where(in_time, at_low, np.inf),
    )


def least_of_both(problem: Problem, rank: np.ndarray | int, frequency_hz: np.ndarray) -> Least:
    """Deadline and energy that together make ``rank`` possible at ``frequency_hz``: finite unless the link is dead."""
    with np.errstate(all="ignore"):
        cost = charges(problem, rank, frequency_hz)
    return Least(cost.latency_s, cost.energy_j)


def least_at(problem: Problem, rank: np.ndarray | int, frequency_hz: np.ndarray) -> Least:
    """What ``rank`` asks at least of deadline and of energy at a given frequency, each with the other as given."""
    with np.errstate(all="ignore"):
        cost = charges(problem, rank, frequency_hz)
    return Least(
        deadline_s=np.where(cost.energy_j <= problem.energy_budget_j, cost.latency_s, np.inf),
        energy_j=np.where(cost.latency_s <= problem.deadline_s, cost.energy_j, np.inf),
    )


def why_infeasible(problem: Problem, frequency_hz: np.ndarray | None = None) -> list[str]:
    """For every device of ``problem``, none of which can do rank 1: the smallest deadline and energy that would do.

    Args:
        frequency_hz: ``(devices,)`` where it is given; else the best one is meant.
    """
    alone, both = _at_rank_1(problem, frequency_hz)
    chance = "" if frequency_hz is None else " at the frequency drawn"
    return [
        _words(
            float(problem.deadline_s[row]),
            float(problem.energy_budget_j[row]),
            float(alone.deadline_s[row]),
            float(alone.energy_j[row]),
            float(both.deadline_s[row]),
            float(both.energy_j[row]),
            chance,
        )
        for row in range(len(problem))
    ]


def _words(
    deadline_s: float, budget_j: float, alone_s: float, alone_j: float, both_s: float, both_j: float, chance: str
) -> str:
    cannot = f"cannot do rank 1{chance} within {deadline_s:.6g} s and {budget_j:.6g} J"
    if not np.isfinite(both_s):
        return f"{cannot}; no limits would do: its link carries nothing"
    ways = []
    if np.isfinite(alone_s):
        ways.append(f"a deadline of {round_up(alone_s)} s with {budget_j:.6g} J")
    if np.isfinite(alone_j):
        ways.append(f"a budget of {round_up(alone_j)} J within {deadline_s:.6g} s")
    if not ways:
        ways.append(f"{round_up(both_s)} s and {round_up(both_j)} J together")
    return f"{cannot}; the least that would do: {', or '.join(ways)}"


def least_for_some(problem: Problem, frequency_hz: np.ndarray | None = None) -> str:
    """Limits with which devices of ``problem``, none of which can do rank 1, could: those for all, and the least for one.

    Args:
        frequency_hz: ``(devices,)`` where it is given; else the best one is meant.
    """
    alone, both = _at_rank_1(problem, frequency_hz)
    reachable = np.flatnonzero(np.isfinite(both.deadline_s))
    if len(reachable) == 0:
        return "no limits would do: no link carries anything"
    single = ((alone.deadline_s, "a deadline of {} s"), (alone.energy_j, "a budget of {} J for each"))
    ways = [_for_all_or_one(least, limit) for least, limit in single if np.isfinite(least).any()]
    if not any(np.isfinite(least).all() for least, _ in single) and len(reachable) == len(problem):
        ways.append(_together(both.deadline_s.max(), both.energy_j.max(), "all of them"))
    if not any(np.isfinite(least).any() for least, _ in single):
        first = reachable[both.deadline_s[reachable].argmin()]
        ways.append(_together(both.deadline_s[first], both.energy_j[first], "one of them"))
    return ", or ".join(ways)


def _for_all_or_one(least: np.ndarray, limit: str) -> str:
    """``limit`` with the number that does for all devices, where one does, and with that of the device that asks least."""
    one = f"{limit.format(round_up(float(least.min())))} would do for one of them"
    if not np.isfinite(least).all():
        return one
    return f"{limit.format(round_up(float(least.max())))} would do for all of them, {one}"


def _together(deadline_s: float, energy_j: float, whom: str) -> str:
    return f"{round_up(float(deadline_s))} s and {round_up(float(energy_j))} J together would do for {whom}"


def _at_rank_1(problem: Problem, frequency_hz: np.ndarray | None) -> tuple[Least, Least]:
    """What rank 1 asks of each limit with the other as given, and of both together."""
    alone = least(problem, 1) if frequency_hz is None else least_at(problem, 1, frequency_hz)
    return alone, least_of_both(problem, 1, problem.max_frequency_hz if frequency_hz is None else frequency_hz)


def round_up(value: float) -> str:
    """``value`` in at most six digits, and above it by more than the sums round: the printed value must suffice."""
    text = f"{value:.6g}"
    if float(text) >= value * (1 + 1e-9):
        return text
    last_digit = 10.0 ** (math.floor(math.log10(value)) - 5)
    return f"{float(text) + last_digit:.6g}"
