"""``fedfit reproduce``: a figure of a paper, or a comparison, from the sweep to the page that says which claims hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfit.cli_study import Jobs, run_study, show_study
from fedfit.terminal import Json, Quiet, polite_errors, prepare_libraries, print_json, waiting


def reproduce(
    figure: Annotated[
        str,
        typer.Argument(
            help="fig2 (placement), fig3 (rank), fig4 (deadline), fig5 (energy); mixed-ranks, rules compared; personal, "
            "devices' own models; or of language models commonsense, instructions, preferences."
        ),
    ],
    scale: Annotated[
        str, typer.Option(help="smoke: a minute; small: two cores; paper: a GPU and the hub (not of mixed-ranks, personal).")
    ] = "small",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; by default as many as the scale has.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; by default runs/<figure>-<scale>.")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Of a comparison, the cases whose names have this text (ag_news, sst2-0.1; persona). Two commands on "
            "different data sets may run side by side in one --out; each writes the results of all cases finished by then."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run anew what is there with another recipe.")] = False,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the sweep behind a figure or a comparison, or go on with it; draw it, and say which claims hold."""
    with polite_errors(as_json):
        with waiting("reading data and model …", quiet):
            prepare_libraries()
            from fedfit.sweeps.reproduce import find_study

            study = find_study(figure, scale, seeds, only=only)
        written = run_study(study, out or study.default_out, force=force, quiet=quiet, jobs=jobs)
    if as_json:
        print_json({"figure": figure, "scale": scale, "written": [str(path) for path in written]})
        return
    show_study(study, written)
