"""What a sweep is: one recipe, run at several points and over several seeds, to be drawn as one figure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fedfit.experiment.load import parse_recipe
from fedfit.settings import Recipe


@dataclass(frozen=True)
class Point:
    """One place on a figure: ``overrides`` (``section.key=value``) on the sweep's recipe.

    ``line`` is the line's name in the legend, ``x`` where on the x axis it lies; ``None`` where the x axis is the rounds and
    the point is a whole line.
    """

    line: str
    x: float | None
    overrides: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Its part of a run folder's name: ``last 3 layers`` at 8 gives ``last-3-layers-8``."""
        words = re.sub(r"[^a-z0-9.]+", "-", self.line.lower()).strip("-")
        return words if self.x is None else f"{words}-{self.x:g}"


@dataclass(frozen=True)
class Setting:
    """A setting that a reader of the figure has to know.

    ``keys`` are the recipe's keys that hold it, so that what is written of it cannot drift from what is run. ``paper`` is what
    the paper prints, ``None`` where it prints nothing; ``why`` is a word on what was chosen here.
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
    """A figure to be computed. ``base`` is a recipe in TOML; ``notes`` are the settings a reader has to know.

    Seeds count from ``first_seed``.
    """

    name: str
    title: str
    axis: Axis
    base: str
    points: tuple[Point, ...]
    notes: tuple[Setting, ...] = ()
    scale: str = ""
    default_seeds: int = 3
    first_seed: int = 0

    def recipe(self, point: Point, seed: int) -> Recipe:
        """The recipe of one run.

        Raises:
            RecipeError: for a sweep whose overrides do not fit its recipe.
        """
        name = f'name="{self.name} {point.slug} seed {seed}"'
        return parse_recipe(self.base, [*point.overrides, name, f"seed={seed}"], f"the recipe of {self.name}")

    def runs(self, seeds: int) -> list[Run]:
        """Every run, in the order to be run: what shares a trunk is together, so that its cache is warm; then seed by seed,
        so that a sweep that is stopped has whole seeds."""
        layers: list[object] = []
        keyed = []
        for place, point in enumerate(self.points):
            for seed in range(self.first_seed, self.first_seed + seeds):
                recipe = self.recipe(point, seed)
                if recipe.adapter.layers not in layers:
                    layers.append(recipe.adapter.layers)
                run = Run(f"{point.slug}-seed{seed}", point, seed, recipe)
                keyed.append(((layers.index(recipe.adapter.layers), seed, place), run))
        return [run for _, run in sorted(keyed, key=lambda pair: pair[0])]

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
