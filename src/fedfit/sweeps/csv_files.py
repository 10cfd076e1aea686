"""Rows as CSV files: runs, means over the seeds, rounds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from fedfit.sweeps.rows import Row, summarise
from fedfit.sweeps.sweep import Cell, Columns, Sweep


def rows_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """CSV text with one line per run."""
    names = [*_names(rows[0].columns), "seed", *_names(rows[0].facts), *sweep.measures]
    lines = [
        [*_cells(row.columns), row.seed, *_cells(row.facts), *(row.values[name] for name in sweep.measures)] for row in rows
    ]
    return csv_text(names, lines)


def summary_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """CSV text with one line per point: means and standard deviations over n seeds, ``reached`` of which met the target."""
    counts = ("n", "reached") if "rounds_to_target" in sweep.measures else ("n",)
    names = [f"{measure}_{kind}" for measure in sweep.measures for kind in ("mean", "sd")]
    lines: list[list[Cell]] = []
    for point in summarise(rows):
        cells = [value for measure in sweep.measures for value in (point.mean[measure], point.sd[measure])]
        lines.append([*_cells(point.columns), *_cells(point.facts), *(getattr(point, name) for name in counts), *cells])
    return csv_text([*_names(rows[0].columns), *_names(rows[0].facts), *counts, *names], lines)


def rounds_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    """CSV text with one line per run and evaluated round; bytes are the total of both directions since the start."""
    lines: list[list[Cell]] = [
        [*_cells(row.columns), row.seed, number, value, sent]
        for row in rows
        for number, (value, sent) in enumerate(zip(row.curve, row.sent_bytes, strict=True))
        if not math.isnan(value)
    ]
    return csv_text([*_names(rows[0].columns), "seed", "round", sweep.metric.key, "sent_bytes"], lines)


def csv_text(names: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """CSV text of ``lines`` under ``names``. ``None`` becomes an empty cell; numbers keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    return text.getvalue()


def _names(columns: Columns) -> list[str]:
    return [name for name, _ in columns]


def _cells(columns: Columns) -> list[Cell]:
    return [cell for _, cell in columns]
