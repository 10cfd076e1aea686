"""Which ranks a device can do, and at which frequencies: constraints C1–C4 (equations 14–19).

At a rank r, C1 asks ``f ≥ f_lo(r) = C|D| / (T0 − M_ul·Q/s_ul − M_dl·Q/s_dl)`` and C2 asks ``f ≤ f_hi(r) = sqrt((E0 − ξ −
P·M_ul·Q/s_ul) / (Ω·C|D|))``. Every operation here moves one way as r grows, and rounding keeps that order, so feasibility is
monotone in r to the last bit: bisection finds the same rank as a trial of every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfit.planning.problem import Problem, charges

BINDINGS = ("none", "deadline", "energy", "frequency", "max_rank")
"""What stops the next rank, by its code in arrays."""
NONE, DEADLINE, ENERGY, FREQUENCY, MAX_RANK = range(len(BINDINGS))


@dataclass(frozen=True)
class Limits:
    """The time, energy and frequencies that a rank leaves for computing: arrays ``(devices,)``.

    ``slack_s`` and ``slack_j`` are the rest of deadline and budget after radio and circuit; ``low_hz`` is the least
    frequency that keeps the deadline (infinite without slack), ``energy_hz`` the greatest within the budget (0 without).
    """

    slack_s: np.ndarray
    slack_j: np.ndarray
    low_hz: np.ndarray
    energy_hz: np.ndarray
    high_hz: np.ndarray

    @property
    def feasible(self) -> np.ndarray:
        """Whether some frequency keeps deadline and budget."""
        return (self.slack_s > 0) & (self.slack_j > 0) & (self.low_hz <= self.high_hz)


def limits_at(problem: Problem, rank: np.ndarray | int) -> Limits:
    """The frequencies that ``rank`` leaves, ``[low_hz, high_hz]``, empty where it is not feasible."""
    cycles = problem.cycles(rank)
    with np.errstate(all="ignore"):  # a dead link or no slack gives infinities, which compare as they should
        uplink_s = problem.uplink_bits(rank) / problem.uplink_bits_per_s
        slack_s = problem.deadline_s - (uplink_s + problem.downlink_bits(rank) / problem.downlink_bits_per_s)
        slack_j = problem.energy_budget_j - problem.circuit_energy_j - problem.transmit_power_w * uplink_s
        low = np.where(slack_s > 0, cycles / slack_s, np.inf)
        energy = np.where(slack_j > 0, np.sqrt(np.maximum(slack_j, 0) / (problem.capacitance * cycles)), 0.0)
    return Limits(slack_s, slack_j, low, energy, np.minimum(energy, problem.max_frequency_hz))


def feasible(problem: Problem, rank: np.ndarray | int) -> np.ndarray:
    """Whether each device can do ``rank`` at some frequency."""
    return limits_at(problem, rank).feasible


def feasible_at(problem: Problem, rank: np.ndarray | int, frequency_hz: np.ndarray) -> np.ndarray:
    """Whether each device can do ``rank`` at the frequency that it is given."""
    with np.errstate(all="ignore"):
        cost = charges(problem, rank, frequency_hz)
        in_time = np.isfinite(cost.latency_s) & (
            cost.latency_s <= problem.deadline_s
        )  # a dead link never ends, deadline or not
        in_budget = cost.energy_j <= problem.energy_budget_j
    within: np.ndarray = in_time & in_budget & (frequency_hz <= problem.max_frequency_hz)
    return within


def binding(problem: Problem, rank: np.ndarray) -> np.ndarray:
    """What stops ``rank + 1``, as codes of ``BINDINGS``.

    ``max_rank``: it is not wanted. ``deadline``: the radio alone takes the deadline. ``energy``: radio and circuit alone
    spend the budget; or the deadline asks for more than the highest frequency that the budget allows, and that is below f_max.
    ``frequency``: the deadline asks for more than f_max, which is no more than the budget allows.
    """
    following = limits_at(problem, rank + 1)
    code = np.where(following.energy_hz < problem.max_frequency_hz, ENERGY, FREQUENCY)
    code = np.where(following.slack_j > 0, code, ENERGY)
    code = np.where(following.slack_s > 0, code, DEADLINE)
    code = np.where(following.feasible, NONE, code)  # only of a rank that no exact solver gave
    return np.where(rank >= problem.max_rank, MAX_RANK, code)


def binding_at(problem: Problem, rank: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
    """What stops ``rank + 1`` where the frequency is given: the first of deadline and energy that it breaks."""
    with np.errstate(all="ignore"):
        late = charges(problem, rank + 1, frequency_hz).latency_s > problem.deadline_s
    code = np.where(late, DEADLINE, ENERGY)
    return np.where(rank >= problem.max_rank, MAX_RANK, code)
