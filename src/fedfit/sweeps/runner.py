"""Runs a sweep: one ordinary run folder a point and seed, taken up again where a killed sweep left it."""

from __future__ import annotations

import tomllib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfit.errors import RunFolderError
from fedfit.experiment.build import resolve_paths
from fedfit.experiment.load import to_toml
from fedfit.experiment.session import Session
from fedfit.experiment.tables import flat
from fedfit.experiment.validate import validate
from fedfit.reports.read import read_run
from fedfit.reports.tables import status
from fedfit.sweeps.sweep import Run, Sweep
from fedfit.tracking.checkpoint import Checkpoints

RUNS_FOLDER = "runs"
_SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class Progress:
    """How far a sweep is. ``run`` counts from 1; ``round`` is the last one that is done, ``None`` before round 0 is.

    ``done`` and ``total`` count rounds over all runs, round 0 of each included, for one bar over the whole. ``accuracy`` is
    the test accuracy so far, a share of 1.
    """

    run: int
    runs: int
    name: str
    round: int | None
    rounds: int
    accuracy: float | None
    done: int
    total: int


def run_sweep(sweep: Sweep, seeds: int, out: Path, *, force: bool = False) -> Iterator[Progress]:
    """Runs what is left of ``sweep``, a run at a time; stop asking to stop, and call again to go on.

    Yields before each run, after each of its rounds, and once for a run that was finished before. Run folders are
    ``out/runs/<line>-<x>-seed<k>``. All of them are checked before the first starts.

    Args:
        force: runs anew what is there with another recipe; what has the wanted one is kept.

    Raises:
        FedfitError: for a recipe, data, model or folder that will not do, or a run that cannot go on. In particular for a
            run folder with another recipe than is wanted now; the message says what differs.
    """
    runs = sweep.runs(seeds)
    stale = other_recipes(runs, out, force=force)
    left = {run.folder for run in unfinished(runs, out)}
    for run in runs:
        if run.folder in left:
            validate(run.recipe)
    for place in _places(runs):
        if place.run.folder not in left:
            yield place.after(place.run.recipe.federation.rounds, None)
            continue
        yield place.after(None, None)
        with closing(_rounds(place.run, out, anew=place.run in stale)) as rounds:
            for last, accuracy in rounds:
                yield place.after(last, accuracy)


@dataclass(frozen=True)
class _Place:
    """A run and where it stands among all; ``before`` are the rounds of those before it."""

    run: Run
    number: int
    runs: int
    before: int
    total: int

    def after(self, last: int | None, accuracy: float | None) -> Progress:
        done = self.before + (0 if last is None else last + 1)
        rounds = self.run.recipe.federation.rounds
        return Progress(self.number, self.runs, self.run.folder, last, rounds, accuracy, done, self.total)


def _places(runs: Sequence[Run]) -> Iterator[_Place]:
    sizes = [run.recipe.federation.rounds + 1 for run in runs]
    for index, run in enumerate(runs):
        yield _Place(run, index + 1, len(runs), sum(sizes[:index]), sum(sizes))


def differences(run: Run, out: Path) -> list[str]:
    """What the recipe in the run's folder says otherwise than ``run.recipe``, a line a key; none where there is no recipe.

    Raises:
        RunFolderError: when the recipe in the folder cannot be read.
    """
    path = out / RUNS_FOLDER / run.folder / "recipe.toml"
    if not path.is_file():
        return []
    there, wanted = _document(path), dict(flat(tomllib.loads(to_toml(resolve_paths(run.recipe)))))
    missing = "unset"
    keys = [key for key in {**wanted, **there} if wanted.get(key, missing) != there.get(key, missing)]
    return [f"{key} is {there.get(key, missing)!r} there and {wanted.get(key, missing)!r} now" for key in sorted(keys)]


def other_recipes(runs: Sequence[Run], out: Path, *, force: bool) -> list[Run]:
    """Those of ``runs`` that are there with another recipe than is wanted now.

    Raises:
        RunFolderError: when there are any, unless ``force`` allows to run them anew.
    """
    stale = [run for run in runs if differences(run, out)]
    if stale and not force:
        _refuse(stale[0], len(stale), out)
    return stale


def is_finished(run: Run, out: Path) -> bool:
    """Whether every round of ``run`` counts, the adapter included. Does not look at the recipe."""
    path = out / RUNS_FOLDER / run.folder
    last = Checkpoints(path / "checkpoints").latest() if (path / "recipe.toml").is_file() else None
    if last is None or not (path / "adapter").is_dir():
        return False
    data = read_run(path)
    return status(data) != "unfinished" and data.rounds[-1]["round"] == last.record.round


def unfinished(runs: Sequence[Run], out: Path) -> list[Run]:
    """Those of ``runs`` that are not finished, or are there with another recipe."""
    return [run for run in runs if differences(run, out) or not is_finished(run, out)]


def _rounds(run: Run, out: Path, *, anew: bool) -> Generator[tuple[int, float], None, None]:
    """Number and test accuracy of each round that this process adds, and of the last one before it."""
    path = out / RUNS_FOLDER / run.folder
    # A process killed between the folder and its recipe leaves a folder that cannot be resumed and holds no round.
    resumable = (path / "recipe.toml").is_file() and not anew
    session = Session.resume(path) if resumable else Session.start(run.recipe, path, force=True)
    try:
        if session.last is not None:
            yield session.last.record.round, session.last.record.test_accuracy
        with closing(session.results()) as results:  # type: ignore[type-var]
            for result in results:
                yield result.record.round, result.record.test_accuracy
    finally:
        session.folder.close()


def _document(path: Path) -> dict[str, Any]:
    try:
        return dict(flat(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); restore it, or remove its folder") from error


def _refuse(run: Run, count: int, out: Path) -> None:
    found = differences(run, out)
    more = [f"and {len(found) - _SHOWN_DIFFERENCES} more"] if len(found) > _SHOWN_DIFFERENCES else []
    others = f" (and {count - 1} other runs likewise)" if count > 1 else ""
    remedy = "give another --out, or --force to run those anew"
    said = "; ".join([*found[:_SHOWN_DIFFERENCES], *more])
    raise RunFolderError(f"{out / RUNS_FOLDER / run.folder} was run with another recipe{others}: {said}. Either {remedy}")
