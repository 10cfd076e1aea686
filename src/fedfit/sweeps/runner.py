"""Runs sweeps: one ordinary run folder a point and seed, taken up again where a killed sweep left it.

The one engine behind ``fedfit sweep`` and ``fedfit reproduce``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Generator, Iterator, Sequence
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
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.sweep import Run, Sweep
from fedfit.tracking.checkpoint import Checkpoints

RUNS_FOLDER = "runs"
_SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class Progress:
    """How far a sweep is. ``run`` counts from 1; ``round`` is the last one that is done, ``None`` before round 0 is.

    ``done`` and ``total`` count rounds over all runs, round 0 of each included, for one bar over the whole. ``value`` is the
    sweep's metric so far, ``None`` before it is measured.
    """

    run: int
    runs: int
    name: str
    round: int | None
    rounds: int
    value: float | None
    done: int
    total: int


@dataclass(frozen=True)
class Stage:
    """A sweep in its folder, perhaps one that rests on the results of stages before it.

    ``sweep`` returns it, or ``None`` while those results are missing. ``outline`` has the same number of runs and rounds, and
    the same faults, and can be had from the start. ``label`` goes before the names of its runs.
    """

    folder: Path
    outline: Sweep
    sweep: Callable[[], Sweep | None]
    label: str = ""

    @classmethod
    def of(cls, sweep: Sweep, folder: Path, label: str = "") -> Stage:
        """A sweep that rests on nothing."""
        return cls(folder, sweep, lambda: sweep, label)


def run_sweep(sweep: Sweep, out: Path, *, force: bool = False) -> Iterator[Progress]:
    """Runs what is left of ``sweep`` in ``out``; :func:`run_stages` has the contract."""
    return run_stages([Stage.of(sweep, out)], force=force)


def run_stages(stages: Sequence[Stage], *, force: bool = False) -> Iterator[Progress]:
    """Runs what is left of ``stages``, a run at a time; stop asking to stop, and call again to go on.

    Yields before each run, after each of its rounds, and once for a run that was finished before. Run folders are
    ``<folder of the stage>/runs/<line>-<x>-seed<k>``. All of them are checked before the first starts.

    Args:
        force: runs anew what is there with another recipe; what has the wanted one is kept.

    Raises:
        FedfitError: for a recipe, data, model or folder that will not do, or a run that cannot go on. In particular for a
            run folder with another recipe than is wanted now; the message says what differs.
    """
    outlines = [stage.outline.runs() for stage in stages]
    for stage, outline in zip(stages, outlines, strict=True):
        _check(stage, outline, force=force)
    places = _places([run for outline in outlines for run in outline])
    for stage in stages:
        sweep = stage.sweep()
        assert sweep is not None, "stages before it are finished now"
        runs = sweep.runs()
        stale = other_recipes(runs, stage.folder, force=force)
        left = {run.folder for run in unfinished(runs, stage.folder)}
        for run in runs:
            place, name = next(places), f"{stage.label} {run.folder}".lstrip()
            if run.folder not in left:
                yield place.after(name, place.rounds, None)
                continue
            yield place.after(name, None, None)
            with closing(_rounds(run, stage.folder, sweep.metric, anew=run in stale)) as rounds:
                for last, value in rounds:
                    yield place.after(name, last, value)


def _check(stage: Stage, outline: Sequence[Run], *, force: bool) -> None:
    """Refuses before the first run what would be refused hours later; but not a spread that leaves too few devices a sample.

    Seeds do not make a recipe valid, so one of each point is looked at.
    """
    sweep = stage.sweep()
    runs = outline if sweep is None else sweep.runs()
    if sweep is not None:
        other_recipes(runs, stage.folder, force=force)
    left = runs if sweep is None else unfinished(runs, stage.folder)
    for run in {run.point: run for run in reversed(left)}.values():
        validate(run.recipe)


@dataclass(frozen=True)
class _Place:
    """Where a run stands among all; ``before`` are the rounds of those before it."""

    number: int
    runs: int
    rounds: int
    before: int
    total: int

    def after(self, name: str, last: int | None, value: float | None) -> Progress:
        done = self.before + (0 if last is None else last + 1)
        return Progress(self.number, self.runs, name, last, self.rounds, value, done, self.total)


def _places(runs: Sequence[Run]) -> Iterator[_Place]:
    sizes = [run.recipe.federation.rounds + 1 for run in runs]
    before = 0
    for number, size in enumerate(sizes, start=1):
        yield _Place(number, len(runs), size - 1, before, sum(sizes))
        before += size


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


def _rounds(run: Run, out: Path, metric: Metric, *, anew: bool) -> Generator[tuple[int, float], None, None]:
    """Number and metric of each round that this process adds, and of the last one before it."""
    path = out / RUNS_FOLDER / run.folder
    # A process killed between the folder and its recipe leaves a folder that cannot be resumed and holds no round.
    resumable = (path / "recipe.toml").is_file() and not anew
    session = Session.resume(path) if resumable else Session.start(run.recipe, path, force=True)
    try:
        if session.last is not None:
            yield session.last.record.round, metric.of(session.last.record.to_json())
        with closing(session.results()) as results:  # type: ignore[type-var]
            for result in results:
                yield result.record.round, metric.of(result.record.to_json())
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
