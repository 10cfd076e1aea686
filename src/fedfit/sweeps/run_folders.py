"""The state of a sweep's run folders: finished, unfinished, or of another recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfit.errors import RunFolderError
from fedfit.experiment.fingerprint import with_later_keys
from fedfit.experiment.load import to_toml
from fedfit.experiment.resolve import resolve
from fedfit.experiment.tables import flat
from fedfit.reports.read import read_run
from fedfit.reports.tables import status
from fedfit.sweeps.sweep import Run
from fedfit.tracking.checkpoint import Checkpoints

RUNS_FOLDER = "runs"
_SHOWN_DIFFERENCES = 5


def differences(run: Run, out: Path) -> list[str]:
    """A line for each key in which the recipe in the run's folder differs from ``run.recipe``; none without a recipe.

    Raises:
        RunFolderError: if the recipe in the folder cannot be read.
    """
    path = out / RUNS_FOLDER / run.folder / "recipe.toml"
    if not path.is_file():
        return []
    found, wanted = with_later_keys(_read_keys(path)), with_later_keys(dict(flat(tomllib.loads(to_toml(resolve(run.recipe))))))
    missing = "unset"
    keys = [key for key in {**wanted, **found} if wanted.get(key, missing) != found.get(key, missing)]
    return [f"{key} was {found.get(key, missing)!r} and is now {wanted.get(key, missing)!r}" for key in sorted(keys)]


def other_recipes(runs: Sequence[Run], out: Path, *, force: bool) -> list[Run]:
    """The ``runs`` whose folder has another recipe.

    Raises:
        RunFolderError: if any folder has another recipe, unless ``force`` permits running these again.
    """
    stale = [run for run in runs if differences(run, out)]
    if stale and not force:
        _refuse(stale[0], len(stale), out)
    return stale


def is_finished(run: Run, out: Path) -> bool:
    """Whether ``run`` has ended with its last checkpoint and its adapter saved. Does not compare recipes."""
    path = out / RUNS_FOLDER / run.folder
    last = Checkpoints(path / "checkpoints").latest() if (path / "recipe.toml").is_file() else None
    if last is None or not (path / "adapter").is_dir():
        return False
    data = read_run(path)
    return status(data) != "unfinished" and data.rounds[-1]["round"] == last.record.round


def unfinished(runs: Sequence[Run], out: Path) -> list[Run]:
    """The ``runs`` that are not finished, or whose folder has another recipe."""
    return [run for run in runs if differences(run, out) or not is_finished(run, out)]


def _read_keys(path: Path) -> dict[str, Any]:
    try:
        return dict(flat(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); restore it, or remove its folder") from error


def _refuse(run: Run, count: int, out: Path) -> None:
    found = differences(run, out)
    more = [f"and {len(found) - _SHOWN_DIFFERENCES} more"] if len(found) > _SHOWN_DIFFERENCES else []
    others = f" (and {count - 1} other runs likewise)" if count > 1 else ""
    remedy = "Give another --out, or --force to run them again"
    said = "; ".join([*found[:_SHOWN_DIFFERENCES], *more])
    raise RunFolderError(f"{out / RUNS_FOLDER / run.folder} was run with another recipe{others}: {said}. {remedy}")
