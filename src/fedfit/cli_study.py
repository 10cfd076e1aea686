"""How the command line runs a study: ``fedfit sweep`` and ``fedfit reproduce`` alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedfit.terminal import SCREEN, prepare_libraries, say

if TYPE_CHECKING:
    from fedfit.sweeps.metric import Metric
    from fedfit.sweeps.runner import Progress
    from fedfit.sweeps.study import Study


def run_study(study: Study, out: Path, *, force: bool, quiet: bool, jobs: int = 1) -> list[Path]:
    """Runs what is left of ``study`` behind one bar, ``jobs`` runs at once, then writes its pages; returns their paths.

    Raises:
        FedfitError: for anything that the user can mend.
    """
    from fedfit.sweeps.runner import run_stages

    try:
        _drive(run_stages(list(study.stages(out)), force=force, jobs=jobs, prepare=prepare_libraries), study.metric, quiet)
    except KeyboardInterrupt:
        say(SCREEN, "\nstopped; the same command goes on with it")
        raise typer.Exit(130) from None
    return study.write(out)


Jobs = Annotated[int, typer.Option(min=1, help="Runs at once, each in a process of its own with its part of the processors.")]


def show_study(study: Study, written: list[Path]) -> None:
    """Prints the pages that are meant to be read at once, and all paths."""
    for page in (path for path in written if path.name in study.pages):
        say(Console(), page.read_text(encoding="utf-8"))
    for path in written:
        say(SCREEN, str(path))


def _drive(steps: Iterator[Progress], metric: Metric, quiet: bool) -> None:
    """Runs the sweeps behind one bar that counts rounds over all runs; without a terminal each round is a line."""
    if not SCREEN.is_terminal:
        for step in steps:
            if not quiet and step.round is not None:
                say(SCREEN, f"run {step.run}/{step.runs}: {step.name}, round {step.round}/{step.rounds}{_value(step, metric)}")
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=SCREEN, disable=quiet, refresh_per_second=4) as bar:
        task = bar.add_task("reading data and model", total=None)
        for step in steps:
            words = f"run {step.run}/{step.runs}: {step.name}{_value(step, metric)}"
            bar.update(task, description=words, completed=step.done, total=step.total)


def _value(step: Progress, metric: Metric) -> str:
    return "" if step.value is None else f", {metric.name} {metric.shown(step.value)}"
