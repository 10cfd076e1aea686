"""Runs compared at equal cost and at equal quality.

*Quality-under-Budget* is the best value of a metric that a run reached within a budget of megabytes, seconds or joules.
*Cost-to-Target* is the rounds, megabytes, seconds and joules that a run spent until it first reached a value. Bytes count both
directions, seconds and joules come from the system model, and a megabyte is a million bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fedfit.errors import Fault, RecipeError
from fedfit.reports.abscissa import BYTES, ENERGY, TIME
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, common_metric, number

_BYTES_PER_MEGABYTE = 1e6


def _megabytes(run: RunData) -> list[float] | None:
    sent = BYTES.series(run)
    return None if sent is None else [size / _BYTES_PER_MEGABYTE for size in sent]


COSTS: Mapping[str, Callable[[RunData], list[float] | None]] = MappingProxyType(
    {"mb": _megabytes, "s": TIME.series, "j": ENERGY.series}
)
"""Unit → function that returns a run's total cost after each round, or ``None`` if the run was not simulated."""


@dataclass(frozen=True)
class Limits:
    """Budgets by unit (only the units that have one) and the target; a target for a share is itself a share of 1."""

    budgets: Mapping[str, float]
    target: float


@dataclass(frozen=True)
class Judged:
    """The metric to show, and the metric that chooses the round: the same one on validation rows if every run has it."""

    shown: Measure
    decides: Measure


def judged_by(runs: Sequence[RunData]) -> Judged:
    """The metric that ``runs`` share. Its value on validation rows chooses the round, so that test rows decide nothing."""
    shown = Measure.of(common_metric(runs))
    decides = Measure.of(f"validation_{shown.name}")
    measured = shown.part == "test" and all(decides.key in run.keys for run in runs)
    return Judged(shown, decides if measured else shown)


def limits_of(runs: Sequence[RunData], judged: Judged, asked: Mapping[str, float | None], target: float | None) -> Limits:
    """The ``asked`` budgets and the ``target``. Their defaults: the runs' smallest total, and their worst final value.

    Raises:
        RecipeError: for a budget that is not positive or in a unit that no run has, or a share outside 0 to 1 as target.
    """
    totals = {unit: [spent[-1] for run in runs if (spent := cost(run)) is not None] for unit, cost in COSTS.items()}
    faults = [fault for unit, budget in asked.items() if budget is not None for fault in _budget_faults(unit, budget, totals)]
    if target is not None and (math.isnan(target) or (judged.decides.is_share and not 0 <= target <= 1)):
        faults.append(Fault("--target", target, f"{judged.decides.word} is a share of 1; give 0.85 for 85 %"))
    if faults:
        raise RecipeError(faults, "the comparison")
    least = {unit: min(found) for unit, found in totals.items() if found}
    return Limits(least | {unit: budget for unit, budget in asked.items() if budget is not None}, _target(runs, judged, target))


def quality_under_budget(run: RunData, judged: Judged, unit: str, budget: float) -> float | None:
    """The metric in the run's best round within ``budget``; ``None`` if the run lacks this cost or has no value."""
    spent = COSTS[unit](run)
    if spent is None:
        return None
    sign = 1.0 if run.higher_is_better(judged.decides.key) else -1.0
    within = [
        (sign * number(row[judged.decides.key]), number(row.get(judged.shown.key)))
        for row, cost in zip(run.rounds, spent, strict=True)
        if cost <= budget and math.isfinite(number(row.get(judged.decides.key)))
    ]
    value = max(within, key=lambda pair: pair[0], default=(0.0, math.nan))[1]
    return value if math.isfinite(value) else None


def cost_to_target(run: RunData, judged: Judged, target: float) -> dict[str, float | None] | None:
    """``round`` and the costs by unit when the run first reached ``target``; ``None`` if it never did.

    A round without evaluation cannot reach the target.
    """
    key, sign = judged.decides.key, 1.0 if run.higher_is_better(judged.decides.key) else -1.0
    for place, row in enumerate(run.rounds):
        if sign * number(row.get(key)) >= sign * target:
            spent = {unit: cost(run) for unit, cost in COSTS.items()}
            return {"round": row["round"], **{unit: None if found is None else found[place] for unit, found in spent.items()}}
    return None


def _budget_faults(unit: str, budget: float, totals: Mapping[str, Sequence[float]]) -> list[Fault]:
    name = f"--budget-{unit}"
    if not budget > 0:
        return [Fault(name, budget, "a budget must be more than 0")]
    missing = "no run was simulated; leave this budget out, or run with plan.policy and a fleet"
    return [] if totals[unit] else [Fault(name, budget, missing)]


def _target(runs: Sequence[RunData], judged: Judged, target: float | None) -> float:
    """The given ``target``, else the worst final value of the runs; NaN if no run has a value."""
    if target is not None:
        return target
    key = judged.decides.key
    finals = [value for run in runs if math.isfinite(value := run.final(key))]
    return (min if runs[0].higher_is_better(key) else max)(finals, default=math.nan)
