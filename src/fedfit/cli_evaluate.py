"""``fedfit evaluate``: a run's model on the recipe's own test set, or on the tasks of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fedfit.terminal import SCREEN, Json, Quiet, polite_errors, prepare_libraries, print_json, say, waiting

if TYPE_CHECKING:
    from fedfit.experiment.harness import HarnessOptions, Results
    from fedfit.experiment.measure import Measured

HARNESS_FILE = "harness.json"


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    harness: Annotated[
        list[str] | None, typer.Option(help="Task of lm-evaluation-harness, once for each, or several with commas.")
    ] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with task files (YAML) of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each task of the harness; by default all.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time, with the harness.")] = 8,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="The harness asks by the chat template.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The harness measures the frozen base as well.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the final model again: on the recipe's own test set, or on tasks of lm-evaluation-harness."""
    with polite_errors(as_json):
        from fedfit.errors import DataError
        from fedfit.experiment.harness import HarnessOptions

        tasks = [name.strip() for names in harness or [] for name in names.split(",") if name.strip()]
        options = HarnessOptions(tasks, include_path, limit, batch_size, chat_template, base)
        if not tasks and options != HarnessOptions([]):
            raise DataError("--include-path, --limit, --batch-size, --chat-template and --base go with --harness TASK")
        if tasks:
            _by_harness(folder, options, as_json, quiet)
        else:
            _by_recipe(folder, as_json, quiet)


def _by_recipe(folder: Path, as_json: bool, quiet: bool) -> None:
    with waiting("reading data and model …", quiet):
        prepare_libraries()
        from fedfit.experiment.measure import measure_again
    with waiting("measuring …", quiet):
        found = measure_again(folder)
    if as_json:
        print_json({"round": found.round, **{name: metric.value for name, metric in found.now.items()}})
    else:
        Console().print(_again(found))


def _again(found: Measured) -> Table:
    """Every metric as it is now, beside what the run recorded."""
    from fedfit.reports.metrics import ABSENT, Measure, capital

    table = Table("Metric", box=box.SIMPLE_HEAD, show_edge=False, title=f"After round {found.round}", title_justify="left")
    table.add_column("Now", justify="right")
    table.add_column("Recorded", justify="right")
    for name, metric in found.now.items():
        measure = Measure.of(name)
        recorded = found.recorded.get(name)
        shown = ABSENT if recorded is None else measure.written(recorded.value)
        table.add_row(capital(measure.label), measure.written(metric.value), shown)
    return table


def _by_harness(folder: Path, options: HarnessOptions, as_json: bool, quiet: bool) -> None:
    from fedfit.experiment.harness import check_harness

    check_harness(folder, options)
    with waiting("reading the model …", quiet):
        prepare_libraries()
        from fedfit.experiment.harness import evaluate_by_harness
    with waiting("asking the model …", quiet):
        found = evaluate_by_harness(folder, options, quiet=quiet)
    file = _write(folder / HARNESS_FILE, {**found})
    if as_json:
        print_json({**found, "written": str(file)})
        return
    Console().print(harness_table(found))
    say(SCREEN, f"results: {file}")


def harness_table(found: Mapping[str, Results]) -> Table:
    """A line a task and metric, a column a model: ``0.6250 ± 0.1830``, the standard error behind the value."""
    table = Table("Task", "Metric", "Filter", box=box.SIMPLE_HEAD, show_edge=False)
    for name in found:
        table.add_column(name.capitalize(), justify="right")
    for task, values in found["tuned"].items():
        for key in values:
            metric, _, rows_kept = key.partition(",")
            if isinstance(values[key], int | float) and rows_kept and not metric.endswith("_stderr"):
                cells = [_with_error(results[task], metric, rows_kept) for results in found.values()]
                table.add_row(task, metric, rows_kept, *cells)
    return table


def _with_error(values: Mapping[str, Any], metric: str, rows_kept: str) -> str:
    error = values.get(f"{metric}_stderr,{rows_kept}")
    value = f"{values[f'{metric},{rows_kept}']:.4f}"
    return f"{value} ± {error:.4f}" if isinstance(error, float) else value


def _write(path: Path, value: dict[str, Any]) -> Path:
    import json

    from fedfit.atomic import write_atomic
    from fedfit.errors import RunFolderError

    try:
        write_atomic(path, json.dumps(value, indent=2, default=str).encode() + b"\n")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}; make the folder writable") from error
    return path
