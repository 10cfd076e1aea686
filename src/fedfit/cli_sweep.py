"""``fedfit sweep``: any recipe over a grid of any of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfit.cli_study import Jobs, run_study, show_study
from fedfit.terminal import Json, Quiet, polite_errors, prepare_libraries, print_json, waiting


def sweep(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a TOML file.")],
    grid: Annotated[
        list[str],
        typer.Argument(
            help="section.key=a,b,c … and seed=0..2; a key with one value is set in all runs.", metavar="KEY=VALUES..."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; by default runs/sweep-<name of the recipe>.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of table and figure: macro_f1, loss, …; by default the task's first.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run anew what is there with another recipe.")] = False,
    jobs: Jobs = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe at every combination of values, or go on with it; write one table and one figure."""
    from fedfit.sweeps.grid import parse_grid

    with polite_errors(as_json):
        parsed = parse_grid(grid)
        with waiting("reading data and model …", quiet):
            prepare_libraries()
            from fedfit.experiment.load import read_recipe
            from fedfit.sweeps.first_metric import first_metric
            from fedfit.sweeps.grid_study import grid_study

            text = read_recipe(recipe)
            study = grid_study(text, parsed, metric or first_metric(text, parsed, recipe), recipe)
        written = run_study(study, out or study.default_out, force=force, quiet=quiet, jobs=jobs)
    if as_json:
        print_json({"recipe": recipe, "metric": study.metric.name, "written": [str(path) for path in written]})
        return
    show_study(study, written)
