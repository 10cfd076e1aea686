"""A sweep: one recipe, run at several points and over several seeds, each run in a folder of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from fedfit.experiment.load import parse_recipe
from fedfit.settings import Recipe
from fedfit.sweeps.metric import Metric

Cell = str | float | int | None
"""A cell of a table; ``None`` is an empty one."""

Columns = tuple[tuple[str, Cell], ...]
"""Names of columns with their cells, in order."""


@dataclass(frozen=True)
class Point:
    """One place on a figure: ``overrides`` (``section.key=value``) on the sweep's recipe.

    ``line`` is the line's name in the legend, ``x`` the place on the x axis; ``None`` where the x axis is the rounds or the
    bytes, and the point is a whole line. ``panel`` is the title of the panel that holds the line.
    ``columns`` are the coordinates in tables, and ``facts`` the columns after the seed; without columns a table has figure,
    line and x. ``exchanges`` is false for a method that sends nothing, whatever the simulation passes between its parts.
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
        """Its part of a run folder's name: ``last 3 layers`` at 8 gives ``last-3-layers-8``; ``folder``, if given, as it is."""
        if self.folder:
            return self.folder
        words = re.sub(r"[^a-z0-9.]+", "-", self.line.lower()).strip("-")
        return words if self.x is None else f"{words}-{self.x:g}"


@dataclass(frozen=True)
class Setting:
    """A setting that a reader of the figure has to know.

    ``keys`` are the recipe's keys that hold it, so that the page cannot drift from the runs. ``paper`` is the paper's own
    value, ``None`` where it prints nothing; ``why`` is a word on the choice made here.
    """

    what: str
    keys: tuple[str, ...]
    paper: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Axis:
    """The x axis; ``log2`` draws a doubling as a step of one length."""

    label: str
    log2: bool = False


@dataclass(frozen=True)
class Run:
    """One run of a sweep: ``folder`` is its name below ``out/runs``, ``recipe`` all that it does."""

    folder: str
    point: Point
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    """A table and a figure to be computed. ``base`` is a recipe in TOML; ``notes`` are the settings a reader has to know.

    ``measures`` are the columns of the tables (:class:`fedfit.sweeps.rows.Row` names all). ``target`` is the value of
    ``metric`` that rounds, seconds and joules are counted to. ``command`` runs the sweep, or goes on with it.
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
        """The same over ``count`` seeds from the first one on; ``None`` leaves them as they are."""
        return self if count is None else replace(self, seeds=tuple(range(self.seeds[0], self.seeds[0] + count)))

    def recipe(self, point: Point, seed: int) -> Recipe:
        """The recipe of one run.

        Raises:
            RecipeError: for a sweep whose overrides do not fit its recipe.
        """
        name = f'name="{self.name} {point.slug} seed {seed}"'
        return parse_recipe(self.base, [*point.overrides, name, f"seed={seed}"], f"the recipe of {self.name}")

    def runs(self) -> list[Run]:
        """Every run, in the order to be run: runs that share a trunk together, so that its cache is warm; then seed by seed,
        so that a sweep that is stopped has whole seeds."""
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
        """The distinct values of a recipe's key over the points, in their order; an unset one is ``None``."""
        found: list[Any] = []
        for point in self.points:
            value: Any = self.recipe(point, 0)
            for part in key.split("."):
                value = getattr(value, part)
            if value not in found:
                found.append(value)
        return found
