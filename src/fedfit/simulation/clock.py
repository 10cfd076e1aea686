"""Radio, battery and clock of a simulated run: each round draws its channels, is planned, and is charged.

Nothing here looks at a tensor. What the clock remembers from round to round, energy spent and trunks computed, is in the
device lines, so a resumed run goes on from those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from fedfit.planning.feasible import binding, limits_at
from fedfit.planning.least import why_infeasible
from fedfit.planning.planner import Solution, solve_at, solve_exactly
from fedfit.planning.problem import Problem, Work, charges, make_problem
from fedfit.planning.solvers import exact, random_frequencies
from fedfit.plans import Assignment, Charge, DeviceCost, LinkState, Plan
from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord
from fedfit.simulation.ranks import are_given, device_ranks
from fedfit.simulation.work import WorkModel
from fedfit.wireless.channel import Links, draw_links

_ROUNDING = 1 + 1e-9
"""A device planned to be just in time is not late by the rounding of a sum."""


@dataclass
class FleetClock:
    """The clock of one run. ``spent_j`` and ``computed_trunk`` are by device."""

    work: WorkModel
    spent_j: np.ndarray = field(init=False)
    computed_trunk: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.recipe, self.fleet = self.work.recipe, self.work.fleet
        self.seed = self.recipe.seed
        self.spent_j = np.zeros(len(self.fleet))
        self.computed_trunk = np.zeros(len(self.fleet), dtype=bool)

    def restore(self, records: Iterable[DeviceRecord]) -> None:
        """Takes over what earlier rounds spent."""
        for record in records:
            if record.cost is not None:
                self._remember(record.device, record.cost)

    def plan(self, round_number: int, devices: Sequence[int]) -> Plan:
        """The round's plan by ``plan.policy``; a device without battery, or that cannot do rank 1, does not take part."""
        rows = np.asarray(devices, dtype=np.int64)
        links = self._links(round_number).take(rows)
        counted = self.work.sent if self.recipe.plan.count == "sent" else self.work.formula
        problem = self._problem(counted, rows, links)
        drawn = self._drawn_hz(round_number, rows)
        solution = self._solve(problem, drawn)
        reasons = self._reasons(problem, solution, rows, drawn)
        assignments = {
            device: Assignment(
                rank=int(solution.rank[row]) if reasons[row] is None else 0,
                frequency_hz=float(solution.frequency_hz[row]) if reasons[row] is None else 0.0,
                binding=solution.binding_of(row),
                link=links.of(row),
                refusal=reasons[row],
            )
            for row, device in enumerate(devices)
        }
        return Plan(solution.common_rank, assignments)

    def charge(
        self, plan: Plan, round_number: int, device: int, downlink_bytes: int, uplink_bytes: int
    ) -> tuple[DeviceCost, str | None]:
        """Both charges of one device; the one that ``plan.count`` names decides whether it was in time and within budget."""
        asked = plan.assignments[device]
        if asked.refusal is not None:
            return self._stayed_away(device, asked), asked.refusal
        rows = np.array([device])
        problem = self._problem(self.work.formula, rows, _one(asked.link))
        cost = charges(problem, asked.rank, np.array([asked.frequency_hz]))
        formula = Charge[float](*(float(getattr(cost, name)[0]) for name in Charge.__dataclass_fields__))
        sent = self._by_bytes(formula, device, asked.link, downlink_bytes, uplink_bytes)
        decides = sent if self.recipe.plan.count == "sent" else formula
        budget_j, battery_j = self._limits_j(rows)
        left = float(min(budget_j[0], battery_j[0]))
        made = DeviceCost(asked.frequency_hz, asked.binding, asked.link, formula, sent, min(decides.energy_j, left))
        self._remember(device, made)
        return made, self._late(decides)

    def _stayed_away(self, device: int, asked: Assignment) -> DeviceCost:
        """A device that takes no part spends no time; on a battery, its circuit's energy as far as that goes."""
        left_j = float(self._limits_j(np.array([device]))[1][0])
        circuit_j = min(float(self.fleet.circuit_energy_j[device]), left_j) if math.isfinite(left_j) else 0.0
        cost = Charge(0.0, 0.0, 0.0, 0.0, 0.0, circuit_j)
        made = DeviceCost(0.0, asked.binding, asked.link, cost, cost, circuit_j)
        self._remember(device, made)
        return made

    def duration_s(self, records: Iterable[DeviceRecord]) -> float:
        """Until the last device that takes part has answered, or the deadline has passed."""
        latest = 0.0
        for record in records:
            if record.cost is not None and record.cost.frequency_hz > 0:
                decides = record.cost.sent if self.recipe.plan.count == "sent" else record.cost.formula
                latest = max(latest, decides.latency_s)
        return min(latest, self.deadline_s)

    @property
    def deadline_s(self) -> float:
        """T0; infinite without a deadline."""
        return self.recipe.plan.deadline_s or math.inf

    def _links(self, round_number: int) -> Links:
        return draw_links(self.fleet, self.recipe.channel, self.seed, round_number)

    def _problem(self, work: Work, rows: np.ndarray, links: Links) -> Problem:
        fleet = self.fleet.take(rows)
        fleet = replace(fleet, energy_budget_j=np.minimum(*self._limits_j(rows)))
        first = np.where(self.computed_trunk[rows], 0.0, self.work.trunk_cycles[rows])
        own = work.take(rows)
        own = replace(own, cycles_fixed=own.cycles_fixed + first)
        return make_problem(fleet, links, own, self.deadline_s, self._most[rows])

    @cached_property
    def _most(self) -> np.ndarray:
        """The highest rank of each device; where ranks are given, its own."""
        fixed = self.recipe.plan.policy == "fixed"
        ranks: np.ndarray = np.array(device_ranks(self.recipe) if fixed else [self.recipe.adapter.rank] * len(self.fleet))
        return ranks

    def _limits_j(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The round's budget and what the battery still holds."""
        budget = self.recipe.plan.energy_budget_j
        budget_j = self.fleet.energy_budget_j[rows] if budget is None else np.full(len(rows), budget)
        return budget_j, np.maximum(self.fleet.battery_j[rows] - self.spent_j[rows], 0.0)

    def _drawn_hz(self, round_number: int, rows: np.ndarray) -> np.ndarray | None:
        """The baseline's frequencies; of the whole fleet, so that the choice of devices changes no draw."""
        plan = self.recipe.plan
        if plan.policy != "random_frequency":
            return None
        seed = derive_seed(self.seed, "frequency", round_number)
        drawn_hz: np.ndarray = random_frequencies(self.fleet.max_frequency_hz, plan.random_frequency_low, seed)[rows]
        return drawn_hz

    def _solve(self, problem: Problem, drawn_hz: np.ndarray | None) -> Solution:
        plan = self.recipe.plan
        if plan.policy == "fixed":
            return self._fixed(problem)
        if drawn_hz is not None:
            return solve_at(problem, drawn_hz, common=True)
        return solve_exactly(problem, common=plan.policy == "joint", frequency=plan.frequency)

    def _fixed(self, problem: Problem) -> Solution:
        """The ranks that are given, feasible or not; a device that cannot do its own runs as fast as its budget allows."""
        rank = problem.max_rank
        limits, own = limits_at(problem, rank), exact(problem)
        fastest = np.where(limits.high_hz > 0, limits.high_hz, problem.max_frequency_hz)
        slowest = np.where(limits.feasible & (limits.low_hz > 0), limits.low_hz, fastest)
        frequency = fastest if self.recipe.plan.frequency == "fastest" else slowest
        cost = charges(problem, rank, frequency)
        common = int(rank.max()) if not are_given(self.recipe) else None
        return Solution(own, rank, common, frequency, slowest, fastest, cost, binding(problem, own))

    def _reasons(self, problem: Problem, solution: Solution, rows: np.ndarray, drawn_hz: np.ndarray | None) -> list[str | None]:
        """Why each device cannot take part; ``None`` where it can. A battery that is nearly empty is named as the reason."""
        budget_j, battery_j = self._limits_j(rows)
        unable = np.flatnonzero(solution.rank == 0)
        words = why_infeasible(problem.take(unable), None if drawn_hz is None else drawn_hz[unable])
        reasons: dict[int, str] = dict(zip(unable.tolist(), words, strict=True))
        if self.recipe.plan.policy == "fixed":
            reasons |= _cannot_send(problem)
        for row in np.flatnonzero(battery_j < budget_j):
            if battery_j[row] <= 0:
                reasons[int(row)] = "the battery is empty"
            elif int(row) in reasons:
                reasons[int(row)] = f"the battery holds {battery_j[row]:.6g} J: {reasons[int(row)]}"
        return [reasons.get(row) for row in range(len(rows))]

    def _by_bytes(
        self, formula: Charge[float], device: int, link: LinkState, downlink_bytes: int, uplink_bytes: int
    ) -> Charge[float]:
        """The same computing, with the radio charged for the packets as they were."""
        uplink_s = 8 * uplink_bytes / link.uplink_bits_per_s
        return replace(
            formula,
            uplink_s=uplink_s,
            downlink_s=8 * downlink_bytes / link.downlink_bits_per_s,
            uplink_j=float(self.fleet.transmit_power_w[device]) * uplink_s,
        )

    def _late(self, cost: Charge[float]) -> str | None:
        """Energy needs no such check: the frequency of a plan stays within budget and battery, or the device is left out."""
        if cost.latency_s > self.deadline_s * _ROUNDING:
            return f"missed the deadline: {cost.latency_s:.6g} s of {self.deadline_s:.6g} s"
        return None

    def _remember(self, device: int, cost: DeviceCost) -> None:
        self.spent_j[device] += cost.spent_j
        self.computed_trunk[device] |= cost.frequency_hz > 0


def _cannot_send(problem: Problem) -> dict[int, str]:
    """Devices whose circuit and uplink alone spend the whole budget, at their given rank; by row."""
    limits = limits_at(problem, problem.max_rank)
    asked_j = problem.energy_budget_j - limits.slack_j
    return {
        int(row): f"circuit and uplink alone take {asked_j[row]:.6g} J at rank {problem.max_rank[row]}, "
        f"and {problem.energy_budget_j[row]:.6g} J may be spent"
        for row in np.flatnonzero(limits.slack_j <= 0)
    }


def _one(link: LinkState) -> Links:
    gains = np.array([link.uplink_gain]), np.array([link.downlink_gain])
    rates = np.array([link.uplink_bits_per_s]), np.array([link.downlink_bits_per_s])
    return Links(*gains, *rates, np.array([link.server]))
