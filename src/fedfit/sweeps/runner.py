"""Runs sweeps: one ordinary run folder a point and seed, taken up again where a killed sweep left it.

The one engine behind ``fedfit sweep`` and ``fedfit reproduce``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedfit.experiment.session import Session
from fedfit.experiment.validate import validate
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.run_folders import RUNS_FOLDER, other_recipes, unfinished
from fedfit.sweeps.sweep import Run, Sweep


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
    """Runs the rest of ``sweep`` in ``out``; :func:`run_stages` has the contract."""
    return run_stages([Stage.of(sweep, out)], force=force)


def run_stages(stages: Sequence[Stage], *, force: bool = False) -> Iterator[Progress]:
    """Runs the rest of ``stages``, a run at a time; stop asking to stop, and call again to go on.

    Yields before each run, after each of its rounds, and once for a run that was finished before. Run folders are
    ``<folder of the stage>/runs/<line>-<x>-seed<k>``. All of them are checked before the first starts.

    Args:
        force: replaces runs of another recipe; the others are kept.

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
