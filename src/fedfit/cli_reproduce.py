"""``fedfit reproduce``: a figure of a paper, or a comparison, from the sweep to the page that says which claims hold."""

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
    figure: Annotated[
        str,
        typer.Argument(help="fig2 (placement), fig3 (rank), fig4 (deadline), fig5 (energy); or mixed-ranks, rules compared."),
    ],
    scale: Annotated[
        str, typer.Option(help="smoke: a minute; small: two cores; paper: a GPU and the hub (not of mixed-ranks).")
    ] = "small",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; by default as many as the scale has.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; by default runs/<figure>-<scale>.")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Of mixed-ranks, the cases whose names have this text (ag_news, sst2-0.1). Two commands on different data "
            "sets may run side by side in one --out; each writes the results of all cases that are finished by then."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run anew what is there with another recipe.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the sweep behind a figure or a comparison, or go on with it; draw it, and say which claims hold."""
    with polite_errors(as_json):
        with waiting("reading data and model …", quiet):
            prepare_libraries()
            from fedfit.sweeps.reproduce import reproduce as run_figure
            from fedfit.sweeps.reproduce import write_results

        try:
            _drive(run_figure(figure, scale, seeds, out, force=force, only=only), quiet)
        except KeyboardInterrupt:
            say(SCREEN, "\nstopped; the same command goes on with it")
            raise typer.Exit(130) from None
        written = write_results(figure, scale, seeds, out, only=only)
    if as_json:
        print_json({"figure": figure, "scale": scale, "written": [str(path) for path in written]})
        return
    for page in (path for path in written if path.name in ("table.md", "verdicts.md")):
        say(Console(), page.read_text(encoding="utf-8"))
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
