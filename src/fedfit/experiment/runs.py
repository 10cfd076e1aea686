"""The recipe and the adapter of a run folder. Starts without torch."""

from __future__ import annotations

from pathlib import Path

from fedfit.core.run_files import check_is_run
from fedfit.errors import RunFolderError
from fedfit.experiment.load import parse_recipe, read_recipe
from fedfit.settings import Recipe


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run was made from.

    Raises:
        RunFolderError: when the folder is none of a run.
    """
    file = run / "recipe.toml"
    check_is_run(run, (file.name,))
    return parse_recipe(read_recipe(str(file)), origin=str(file))


def adapter_of(run: Path) -> Path:
    """The folder of the saved adapter.

    Raises:
        RunFolderError: when none was saved yet.
    """
    adapter = run / "adapter"
    if not (adapter / "adapter_model.safetensors").is_file():
        raise RunFolderError(f"{run} has no saved adapter; finish the run with `fedfit resume {run}`")
    return adapter
