"""Runs sweeps, with one ordinary run folder per point and seed, and resumes stopped ones.

The only engine behind ``fedfit sweep`` and ``fedfit reproduce``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedfit.experiment.session import Session
from fedfit.experiment.validate import validate
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.parallel import in_parallel
from fedfit.sweeps.run_folders import RUNS_FOLDER, other_recipes, unfinished
from fedfit.sweeps.sweep import Run, Sweep


@dataclass(frozen=True)
class Progress:
    """The progress of a sweep. ``run`` counts from 1; ``round`` is the last finished round, ``None`` before round 0 ends.

    ``done`` and ``total`` count rounds over all runs, including round 0 of each, for a single progress bar. ``value`` is the
    sweep's metric after ``round``, ``None`` before round 0 ends and for a run that was already finished.
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
    """A sweep in its folder, which may depend on the results of earlier stages.

    ``sweep`` returns the sweep, or ``None`` while those results are missing. ``outline`` is available from the start, with the
    same number of runs and rounds, and the same faults. ``label`` precedes the names of its runs.
    """

    folder: Path
    outline: Sweep
    sweep: Callable[[], Sweep | None]
    label: str = ""

    @classmethod
    def of(cls, sweep: Sweep, folder: Path, label: str = "") -> Stage:
        """The stage of a sweep that depends on no other stage."""
        return cls(folder, sweep, lambda: sweep, label)


def run_stages(
    stages: Sequence[Stage], *, force: bool = False, jobs: int = 1, prepare: Callable[[], None] | None = None
) -> Iterator[Progress]:
    """Runs the unfinished part of ``stages``. Stop iterating to stop it; call again to resume.

    Yields before each run, after each of its rounds, and once for a run that was already finished. Run folders are
    ``<folder of the stage>/runs/<line>-<x>-seed<k>``. All runs are checked before the first starts.

    Args:
        force: replaces runs of another recipe; all other runs are kept.
        jobs: runs of a stage at once, in processes of their own where there are several.
        prepare: is called first in each of these.

    Raises:
        FedfitError: for an unusable recipe, data set, model or folder, or a run that cannot continue; in particular for a run
            folder with another recipe, whose message lists the differences.
    """
    outlines = [stage.outline.runs() for stage in stages]
    for stage, outline in zip(stages, outlines, strict=True):
        _check(stage, outline, force=force)
    places = _places([run for outline in outlines for run in outline])
    for stage in stages:
        sweep = stage.sweep()
        assert sweep is not None, "earlier stages are finished now"
        runs = sweep.runs()
        stale = other_recipes(runs, stage.folder, force=force)
        left = {run.folder for run in unfinished(runs, stage.folder)}
        tasks = [_Task(run, stage.folder, sweep.metric, run in stale) if run.folder in left else None for run in runs]
        named = [(next(places), f"{stage.label} {run.folder}".lstrip()) for run in runs]
        with closing(_at_once(named, tasks, jobs, prepare) if jobs > 1 else _in_turn(named, tasks)) as steps:
            yield from steps


@dataclass(frozen=True)
class _Task:
    """A run that is left; ``anew``: what its folder holds is of another recipe."""

    run: Run
    folder: Path
    metric: Metric
    anew: bool


_Named = Sequence[tuple["_Place", str]]


def _in_turn(named: _Named, tasks: Sequence[_Task | None]) -> Generator[Progress, None, None]:
    for (place, name), task in zip(named, tasks, strict=True):
        if task is None:
            yield place.after(name, place.rounds, None)
            continue
        yield place.after(name, None, None)
        with closing(_rounds(task)) as rounds:
            for last, value in rounds:
                yield place.after(name, last, value)


def _at_once(
    named: _Named, tasks: Sequence[_Task | None], jobs: int, prepare: Callable[[], None] | None
) -> Generator[Progress, None, None]:
    """Runs of a stage in worker processes; rounds are counted over all of them, in whatever order they come."""
    done = named[0][0].before if named else 0
    for (place, name), task in zip(named, tasks, strict=True):
        if task is None:
            done += place.rounds + 1
            yield place.at(done, name, place.rounds, None)
    left = [number for number, task in enumerate(tasks) if task is not None]
    before = dict.fromkeys(left, 0)
    with closing(in_parallel([tasks[number] for number in left], _rounds, jobs, prepare)) as events:  # type: ignore[type-var]
        for which, last, value in events:
            number = left[which]
            place, name = named[number]
            done += last + 1 - before[number]
            before[number] = last + 1
            yield place.at(done, name, last, value)


def _check(stage: Stage, outline: Sequence[Run], *, force: bool) -> None:
    """Raises the faults of a stage before any run starts, except a partition that leaves too few devices with samples.

    The seed does not affect validity, so one run of each point is checked.
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
    """The position of a run among all runs; ``before`` counts the rounds of the earlier runs."""

    number: int
    runs: int
    rounds: int
    before: int
    total: int

    def after(self, name: str, last: int | None, value: float | None) -> Progress:
        """The progress where runs follow one another."""
        return self.at(self.before + (0 if last is None else last + 1), name, last, value)

    def at(self, done: int, name: str, last: int | None, value: float | None) -> Progress:
        """The progress with ``done`` rounds of all runs behind it."""
        return Progress(self.number, self.runs, name, last, self.rounds, value, done, self.total)


def _places(runs: Sequence[Run]) -> Iterator[_Place]:
    sizes = [run.recipe.federation.rounds + 1 for run in runs]
    before = 0
    for number, size in enumerate(sizes, start=1):
        yield _Place(number, len(runs), size - 1, before, sum(sizes))
        before += size


def _rounds(task: _Task) -> Generator[tuple[int, float], None, None]:
    """Yields number and metric of the last round of an earlier process, then of each round that this process runs."""
    run, metric = task.run, task.metric
    path = task.folder / RUNS_FOLDER / run.folder
    # A process killed after making the folder but before writing its recipe leaves a folder without rounds, not resumable.
    resumable = (path / "recipe.toml").is_file() and not task.anew
    session = Session.resume(path) if resumable else Session.start(run.recipe, path, force=True)
    try:
        if session.last is not None:
            yield session.last.record.round, metric.of(session.last.record.to_json())
        with closing(session.results()) as results:  # type: ignore[type-var]
            for result in results:
                yield result.record.round, metric.of(result.record.to_json())
    finally:
        session.folder.close()
