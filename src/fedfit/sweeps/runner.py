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


def run_stages(stages: Sequence[Stage], *, force: bool = False) -> Iterator[Progress]:
    """Runs the unfinished part of ``stages``, one run at a time. Stop iterating to stop it; call again to resume.

    Yields before each run, after each of its rounds, and once for a run that was already finished. Run folders are
    ``<folder of the stage>/runs/<line>-<x>-seed<k>``. All runs are checked before the first starts.

    Args:
        force: replaces runs of another recipe; all other runs are kept.

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
        done = self.before + (0 if last is None else last + 1)
        return Progress(self.number, self.runs, name, last, self.rounds, value, done, self.total)


def _places(runs: Sequence[Run]) -> Iterator[_Place]:
    sizes = [run.recipe.federation.rounds + 1 for run in runs]
    before = 0
    for number, size in enumerate(sizes, start=1):
        yield _Place(number, len(runs), size - 1, before, sum(sizes))
        before += size


def _rounds(run: Run, out: Path, metric: Metric, *, anew: bool) -> Generator[tuple[int, float], None, None]:
    """Yields number and metric of the last round of an earlier process, then of each round that this process runs."""
    path = out / RUNS_FOLDER / run.folder
    # A process killed after making the folder but before writing its recipe leaves a folder without rounds, not resumable.
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
