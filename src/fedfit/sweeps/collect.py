"""From finished run folders to rows and to CSV files. Needs nothing but what is on disk."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfit.errors import RunFolderError
from fedfit.reports.read import RunData, read_run
from fedfit.sweeps.runner import RUNS_FOLDER, unfinished
from fedfit.sweeps.sweep import Run, Sweep

MEASURES = (
    "final_accuracy",
    "final_macro_f1",
    "untrained_accuracy",
    "mean_rank",
    "simulated_s",
    "simulated_j",
    "uplink_bytes",
    "wall_s",
    "refused",
)
"""What is averaged over the seeds."""

Cell = str | float | int | None


@dataclass(frozen=True)
class Row:
    """One run. Accuracies and F1 are shares of 1; ``None`` is what the run does not have.

    ``mean_rank`` is the mean of the rounds' common rank over those rounds that have one; ``simulated_s``, ``simulated_j``
    (of all devices), ``uplink_bytes``, ``wall_s`` and ``refused`` (updates) are totals over the rounds. ``chance`` is 1 over
    the number of classes. ``accuracies`` starts with round 0, the untrained model.
    """

    figure: str
    line: str
    x: float | None
    seed: int
    final_accuracy: float
    final_macro_f1: float
    untrained_accuracy: float
    mean_rank: float | None
    simulated_s: float | None
    simulated_j: float | None
    uplink_bytes: float
    wall_s: float
    refused: float
    chance: float | None
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """A point over its seeds: ``mean`` and ``sd`` by measure (``sd`` with n − 1; ``None`` where there is too little)."""

    figure: str
    line: str
    x: float | None
    n: int
    mean: dict[str, float | None]
    sd: dict[str, float | None]


def collect(sweep: Sweep, seeds: int, out: Path) -> list[Row]:
    """A row for every run: by point in the sweep's order, then by seed.

    Raises:
        RunFolderError: when a run is not there, not finished, or was run with another recipe.
    """
    runs = sweep.runs(seeds)
    left = unfinished(runs, out)
    if left:
        remedy = f"`fedfit reproduce {sweep.name}` with the same options goes on with them"
        first = out / RUNS_FOLDER / left[0].folder
        raise RunFolderError(f"{len(left)} of {len(runs)} runs are not finished as wanted, the first {first}: {remedy}")
    order = {point: place for place, point in enumerate(sweep.points)}
    runs.sort(key=lambda run: (order[run.point], run.seed))
    return [_row(sweep.name, run, read_run(out / RUNS_FOLDER / run.folder)) for run in runs]


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """The rows of each point put together, points in the order of their first row."""
    points: dict[tuple[str, str, float | None], list[Row]] = {}
    for row in rows:
        points.setdefault((row.figure, row.line, row.x), []).append(row)
    return [_summary(figure, line, x, group) for (figure, line, x), group in points.items()]


def rows_csv(rows: Sequence[Row]) -> str:
    """One line a run."""
    names = ("figure", "line", "x", "seed", *MEASURES)
    return csv_text(names, [[getattr(row, name) for name in names] for row in rows])


def summary_csv(rows: Sequence[Row]) -> str:
    """One line a point: mean and standard deviation over its n seeds."""
    names = [f"{measure}_{kind}" for measure in MEASURES for kind in ("mean", "sd")]
    lines: list[list[Cell]] = []
    for point in summarise(rows):
        cells = [value for measure in MEASURES for value in (point.mean[measure], point.sd[measure])]
        lines.append([point.figure, point.line, point.x, point.n, *cells])
    return csv_text(("figure", "line", "x", "n", *names), lines)


def rounds_csv(rows: Sequence[Row]) -> str:
    """One line a run and round."""
    lines: list[list[Cell]] = [
        [row.figure, row.line, row.x, row.seed, number, accuracy]
        for row in rows
        for number, accuracy in enumerate(row.accuracies)
    ]
    return csv_text(("figure", "line", "x", "seed", "round", "test_accuracy"), lines)


def _row(figure: str, run: Run, data: RunData) -> Row:
    accuracies = tuple(data.series("test_accuracy"))
    ranks = _there(data.series("rank"))
    labels = data.partition["labels"] if data.partition else []
    return Row(
        figure=figure,
        line=run.point.line,
        x=run.point.x,
        seed=run.seed,
        final_accuracy=accuracies[-1],
        final_macro_f1=data.series("test_macro_f1")[-1],
        untrained_accuracy=accuracies[0],
        mean_rank=statistics.fmean(ranks) if ranks else None,
        simulated_s=total(data, "simulated_s"),
        simulated_j=total(data, "simulated_j"),
        uplink_bytes=sum(data.series("uplink_bytes")),
        wall_s=sum(data.series("seconds")),
        refused=sum(row.get("refused", 0) for row in data.rounds),
        chance=1 / len(labels) if labels else None,
        accuracies=accuracies,
    )


def _summary(figure: str, line: str, x: float | None, group: Sequence[Row]) -> Summary:
    mean: dict[str, float | None] = {}
    sd: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [value for row in group if (value := getattr(row, measure)) is not None]
        mean[measure] = statistics.fmean(values) if values else None
        sd[measure] = statistics.stdev(values) if len(values) > 1 else None
    return Summary(figure, line, x, len(group), mean, sd)


def total(data: RunData, key: str) -> float | None:
    """Sum of ``key`` over the rounds that have it; ``None`` where none has."""
    values = _there(data.series(key))
    return sum(values) if values else None


def _there(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def csv_text(names: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """``None`` becomes an empty cell; numbers keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    return text.getvalue()
