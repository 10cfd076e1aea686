"""A sweep: one recipe, run at several points and with several seeds, each run in its own folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from fedfit.aggregation.table import rule_keys
from fedfit.experiment.load import parse_recipe
from fedfit.personalization.table import method_keys
from fedfit.settings import Recipe
from fedfit.sweeps.metric import Metric

Cell = str | float | int | None
"""A cell of a table; ``None`` is an empty one."""

Columns = tuple[tuple[str, Cell], ...]
"""Names of columns with their cells, in order."""


@dataclass(frozen=True)
class Point:
    """One point of a sweep: ``overrides`` (``section.key=value``) change the sweep's recipe.

    ``line`` is the line's name in the legend, ``x`` the place on the x axis, or ``None`` if the x axis is rounds or bytes and
    the point is a whole line. ``panel`` is the title of the panel that holds the line.
    ``columns`` are the coordinates in tables, and ``facts`` the columns after the seed; without columns a table has figure,
    line and x. ``exchanges`` is false for a method without communication, even if its simulation passes messages.
    """

    line: str
    x: float | None
    overrides: tuple[str, ...] = ()
    panel: str = ""
    columns: Columns = ()
    facts: Columns = ()
    exchanges: bool = True
    folder: str = ""

    @property
    def slug(self) -> str:
        """The point's part of a run folder's name: ``folder`` if given, else ``last-3-layers-8`` for ``last 3 layers`` at 8."""
        if self.folder:
            return self.folder
        words = re.sub(r"[^a-z0-9.]+", "-", self.line.lower()).strip("-")
        return words if self.x is None else f"{words}-{self.x:g}"


@dataclass(frozen=True)
class Setting:
    """A setting to report beside a figure.

    The page reads the values of ``keys`` from the recipe, so that it always matches the runs. ``paper`` is the paper's own
    value, ``None`` if the paper prints none; ``why`` is a remark on the choice made here.
    """

    what: str
    keys: tuple[str, ...]
    paper: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Axis:
    """The x axis; with ``log2`` every doubling has the same length."""

    label: str
    log2: bool = False


@dataclass(frozen=True)
class Run:
    """One run of a sweep: ``folder`` is its folder's name below ``out/runs``, ``recipe`` its whole recipe."""

    folder: str
    point: Point
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    """The definition of a table and a figure. ``base`` is a recipe in TOML; ``notes`` are the settings to report.

    ``measures`` are the columns of the tables (:class:`fedfit.sweeps.rows.Row` names all). ``target`` is the value of
    ``metric`` that ends the count of rounds, seconds and joules. ``command`` runs or resumes the sweep.
    """

    name: str
    title: str
    axis: Axis
    base: str
    points: tuple[Point, ...]
    notes: tuple[Setting, ...] = ()
    scale: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    metric: Metric = field(default_factory=Metric)
    measures: tuple[str, ...] = ()
    target: float | None = None
    command: str = ""

    def with_seeds(self, count: int | None) -> Sweep:
        """The same sweep over ``count`` seeds, counted from its first; ``None`` keeps the seeds."""
        return self if count is None else replace(self, seeds=tuple(range(self.seeds[0], self.seeds[0] + count)))

    def recipe(self, point: Point, seed: int) -> Recipe:
        """The recipe of one run.

        Raises:
            RecipeError: if the overrides do not fit the recipe.
        """
        name = f'name="{self.name} {point.slug} seed {seed}"'
        return parse_recipe(self.base, [*point.overrides, name, f"seed={seed}"], f"the recipe of {self.name}")

    def runs(self) -> list[Run]:
        """Every run, in the order of execution.

        Runs that share a trunk follow one another, so that its cache is warm; then seed by seed, so that a stopped sweep has
        complete seeds.
        """
        layers: list[object] = []
        keyed = []
        for place, point in enumerate(self.points):
            for seed in self.seeds:
                recipe = self.recipe(point, seed)
                if recipe.adapter.layers not in layers:
                    layers.append(recipe.adapter.layers)
                run = Run(f"{point.slug}-seed{seed}", point, seed, recipe)
                keyed.append(((layers.index(recipe.adapter.layers), seed, place), run))
        return [run for _, run in sorted(keyed, key=lambda pair: pair[0])]

    def columns(self, point: Point) -> Columns:
        """The coordinates of ``point`` in tables."""
        return point.columns or (("figure", self.name), ("line", point.line), ("x", point.x))

    def values(self, key: str) -> list[Any]:
        """The distinct values of a recipe's key over the points, in their order; ``None`` for an unset key.

        A key of a rule's or a method's own has values where that rule or method is used.
        """
        found: list[Any] = []
        for point in self.points:
            recipe = self.recipe(point, 0)
            names = key.split(".")
            value = _own_keys(recipe, names[1]) if len(names) == 3 else getattr(recipe, names[0])
            if value is None:
                continue
            if len(names) > 1:
                value = getattr(value, names[-1])
            if value not in found:
                found.append(value)
        return found


def _own_keys(recipe: Recipe, component: str) -> Any:
    """The keys of the rule or method ``component``; ``None`` where ``recipe`` uses another."""
    if component == recipe.federation.rule:
        return rule_keys(recipe)
    return method_keys(recipe) if component == recipe.personalization.method else None
