"""The recipe and the adapter of a run folder. Starts without torch."""

from __future__ import annotations

from pathlib import Path

from fedfit.core.run_files import check_is_run
from fedfit.errors import RunFolderError
from fedfit.experiment.load import parse_recipe, read_recipe
from fedfit.settings import Recipe

_SHIPPED = {"classification": False, "instruction": True, "preference": True, "language_modelling": True}
"""Kinds of task of the package: whether they train a language model. The table of tasks would import torch."""


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run was made from.

    Raises:
        RunFolderError: when the folder is none of a run.
    """
    file = run / "recipe.toml"
    check_is_run(run, (file.name,))
    return parse_recipe(read_recipe(str(file)), origin=str(file))


def is_language_run(recipe: Recipe) -> bool:
    """Whether the recipe trains a language model; only a task of one's own has to be imported to tell.

    Raises:
        RunFolderError: for a task of one's own that is no longer there.
    """
    if recipe.task.kind in _SHIPPED:
        return _SHIPPED[recipe.task.kind]
    from fedfit.tasks.table import task_entry

    try:
        return task_entry(recipe.task.kind).language
    except LookupError as error:
        raise RunFolderError(f"task.kind = {recipe.task.kind!r}: {error}") from error


def adapter_of(run: Path) -> Path:
    """The folder of the saved adapter.

    Raises:
        RunFolderError: when none was saved yet.
    """
    adapter = run / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise RunFolderError(f"{run} has no saved adapter; finish the run with `fedfit resume {run}`")
    return adapter
