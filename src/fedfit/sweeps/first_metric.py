"""The metric of a sweep that names none: the one that the recipe's task puts first.

Some tasks have theirs from the data, as exact answers do, so the data are read.
"""

from __future__ import annotations

from dataclasses import replace

from fedfit.data.sources import load_tables
from fedfit.errors import Fault, RecipeError
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.own_faults import own_faults
from fedfit.experiment.validate import validate
from fedfit.settings import Recipe
from fedfit.sweeps.grid import Grid
from fedfit.tasks.table import make_task, task_entry


def first_metric(recipe_text: str, grid: Grid, origin: str = "the text") -> str:
    """The name of the task's first metric, the same in every cell of ``grid``; runs nothing.

    Raises:
        FedfitError: for an invalid cell, data that cannot be read, and cells whose tasks have different first metrics.
    """
    cells = [[f"{key}={value}" for key, value in cell] for cell in grid.cells()]
    recipes: list[Recipe] = []
    for recipe in [parse_recipe(recipe_text, [*grid.fixed, *cell], origin) for cell in cells]:  # all of them, before data
        if not any(_same_task(recipe, other) for other in recipes):
            recipes.append(recipe)
    names = list(dict.fromkeys(map(_headline, recipes)))
    if len(names) > 1:
        remedy = f"the cells differ in their first metric ({', '.join(names)}); name one that all measure, such as loss"
        raise RecipeError([Fault("--metric", None, remedy)], "the sweep")
    return names[0]


def _headline(recipe: Recipe) -> str:
    with own_faults(recipe, lambda: ("before the first run", "nothing was written")):
        validate(recipe)
        corpus = task_entry(recipe.task.kind).read(load_tables(recipe.data), recipe.data)
        return make_task(recipe.task, corpus).headline


def _same_task(recipe: Recipe, other: Recipe) -> bool:
    """Whether both have the same task on the same data, whatever their share of it."""
    data, its = (
        replace(each.data, train_samples=None, test_samples=None, validation_share=0.0, max_tokens=1)
        for each in (recipe, other)
    )
    return (recipe.task, data) == (other.task, its)
