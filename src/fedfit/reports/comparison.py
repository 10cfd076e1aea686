"""Tables of ``fedfit compare``: quality at equal cost, cost at equal quality, and the differences between recipes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from fedfit.reports.budget import Judged, Limits, cost_to_target, judged_by, limits_of, quality_under_budget
from fedfit.reports.metrics import ABSENT, capital
from fedfit.reports.read import RunData, display_names
from fedfit.reports.tables import compare_json, compare_table, narrow_table

UNITS = {"mb": "MB", "s": "s", "j": "J"}
UNSET = "unset"


@dataclass(frozen=True)
class Comparison:
    """The runs to compare, their metric, and the limits; ``asked`` is the target if one was given."""

    runs: Sequence[RunData]
    judged: Judged
    limits: Limits
    asked: float | None = None

    @property
    def higher(self) -> bool:
        """Whether higher values of the metric that decides are better."""
        return self.runs[0].higher_is_better(self.judged.decides.key)

    @classmethod
    def of(cls, runs: Sequence[RunData], budgets: Mapping[str, float | None], target: float | None = None) -> Comparison:
        """A comparison within ``budgets`` by unit (``mb``, ``s``, ``j``) and to ``target``; see ``budget.limits_of``.

        Raises:
            RecipeError: for invalid limits.
        """
        judged = judged_by(runs)
        return cls(runs, judged, limits_of(runs, judged, budgets, target), target)

    def to_json(self) -> dict[str, Any]:
        """Everything that the tables print, as JSON values; null for a run that misses the target or has no value."""
        names, limits = display_names(self.runs), self.limits
        qualities = [
            {unit: quality_under_budget(run, self.judged, unit, budget) for unit, budget in limits.budgets.items()}
            for run in self.runs
        ]
        costs = [cost_to_target(run, self.judged, limits.target) for run in self.runs]
        judged = {"metric": self.judged.shown.key, "decided_by": self.judged.decides.key}
        target = limits.target if math.isfinite(limits.target) else None
        return {
            "runs": compare_json(self.runs),
            "quality_under_budget": {
                **judged,
                "budgets": dict(limits.budgets),
                "runs": [{"name": name, **quality} for name, quality in zip(names, qualities, strict=True)],
            },
            "cost_to_target": {
                **judged,
                "target": target,
                "runs": [{"name": name, "reached": cost} for name, cost in zip(names, costs, strict=True)],
            },
            "differences": {key: dict(zip(names, values, strict=True)) for key, values in differences(self.runs).items()},
        }

    def tables(self) -> list[tuple[str, Table]]:
        """Titles and tables for a terminal, the summaries first; equal recipes give no table of differences."""
        judged, wanted = self.judged, self.judged.decides.written(self.limits.target)
        chosen = "" if judged.decides == judged.shown else f" (the round is chosen by {judged.decides.label})"
        default = f" (the {'lowest' if self.higher else 'highest'} final value)" if self.asked is None else ""
        found = [
            (capital(judged.shown.label), compare_table(self.runs)),
            (f"Quality-under-Budget: best {judged.shown.label} within a budget{chosen}", self._quality_table()),
            (f"Cost-to-Target: cost until {judged.decides.label} reaches {wanted}{default}", self._cost_table()),
        ]
        return found + ([("Recipes differ in", _differences_table(self.runs))] if differences(self.runs) else [])

    def _quality_table(self) -> Table:
        budgets = self.limits.budgets
        table = narrow_table(["Run", *(f"≤\u00a0{_digits(budget)}\u00a0{UNITS[unit]}" for unit, budget in budgets.items())])
        for name, run in zip(display_names(self.runs), self.runs, strict=True):
            values = [quality_under_budget(run, self.judged, unit, budget) for unit, budget in budgets.items()]
            table.add_row(Text(name), *map(self.judged.shown.written, values))
        return _name_column(table)

    def _cost_table(self) -> Table:
        units = [unit for unit in UNITS if unit in self.limits.budgets]  # those that some run has
        table = narrow_table(["Run", "Rounds", *(UNITS[unit] for unit in units)])
        for name, run in zip(display_names(self.runs), self.runs, strict=True):
            cost = cost_to_target(run, self.judged, self.limits.target)
            cells = ["never"] if cost is None else [str(cost["round"]), *(_digits(cost[unit]) for unit in units)]
            table.add_row(Text(name), *cells)
        return _name_column(table)


def differences(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    """Recipe keys, except the name, in which ``runs`` differ, with each run's value; ``unset`` if its recipe lacks the key."""
    recipes = [dict(_flat(run.recipe)) for run in runs]
    keys = [key for key in dict.fromkeys(key for recipe in recipes for key in recipe) if key != "name"]
    values = {key: [recipe.get(key, UNSET) for recipe in recipes] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``section.key`` and its value for every key; an empty list counts as unset."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value != []:
            yield f"{prefix}{name}", value


def _differences_table(runs: Sequence[RunData]) -> Table:
    table = narrow_table(["Key", *display_names(runs)])
    for column in table.columns:
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    for key, values in differences(runs).items():
        table.add_row(Text(key), *(Text(str(value)) for value in values))
    return table


def _name_column(table: Table) -> Table:
    first = table.columns[0]
    first.justify, first.no_wrap, first.overflow = "left", False, "fold"
    return table


def _digits(value: float | None) -> str:
    return ABSENT if value is None or not math.isfinite(value) else f"{value:,.4g}"
