"""``fedfit reproduce``: a figure of a paper, from the sweep to the page that says which of its claims hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedfit.terminal import SCREEN, Json, Quiet, polite_errors, prepare_libraries, print_json, say, waiting

if TYPE_CHECKING:
    from fedfit.sweeps.runner import Progress


def reproduce(
    figure: Annotated[str, typer.Argument(help="fig2 (placement), fig3 (rank), fig4 (deadline) or fig5 (energy).")],
    scale: Annotated[str, typer.Option(help="smoke: a minute; small: two cores; paper: a GPU and the hub.")] = "small",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; by default as many as the scale has.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; by default runs/<figure>-<scale>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run anew what is there with another recipe.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the sweep behind a figure of the paper, or go on with it; draw it, and say which claims hold."""
    with polite_errors(as_json):
        with waiting("reading data and model …", quiet):
            prepare_libraries()
            from fedfit.sweeps.reproduce import reproduce as run_figure
            from fedfit.sweeps.reproduce import write_results

        try:
            _drive(run_figure(figure, scale, seeds, out, force=force), quiet)
        except KeyboardInterrupt:
            say(SCREEN, "\nstopped; the same command goes on with it")
            raise typer.Exit(130) from None
        written = write_results(figure, scale, seeds, out)
    if as_json:
        print_json({"figure": figure, "scale": scale, "written": [str(path) for path in written]})
        return
    verdicts = next(path for path in written if path.name == "verdicts.md")
    say(Console(), verdicts.read_text(encoding="utf-8"))
    for path in written:
        say(SCREEN, str(path))


def _drive(steps: Iterator[Progress], quiet: bool) -> None:
    """Runs the sweep behind one bar that counts rounds over all runs."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=SCREEN, disable=quiet, refresh_per_second=4) as bar:
        task = bar.add_task("reading data and model", total=None)
        for step in steps:
            accuracy = "" if step.accuracy is None else f", accuracy {step.accuracy:.1%}"
            words = f"run {step.run}/{step.runs}: {step.name}{accuracy}"
            bar.update(task, description=words, completed=step.done, total=step.total)
