"""The numbers of a run, as values for programs and as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedfit.core.stopping import patience_ended, target_reached
from fedfit.metric_names import higher_is_better
from fedfit.reports.columns import round_columns, run_columns
from fedfit.reports.costs import total_simulated
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, common_metric, display_names, number

HEAD_ROUNDS, TAIL_ROUNDS = 5, 15
"""Rounds of a long run that a terminal shows; the report shows all rounds."""


def summary_rows(run: RunData) -> dict[str, Any]:
    """The run's summary as a flat dict of JSON values, in display order; ``None`` for a missing value.

    ``metric`` is the full name of the headline; keys with its own name have its final and best value (``final_accuracy``,
    ``best_accuracy``). Every metric of the last evaluation has its full name as key (``test_macro_f1``). Accuracies and F1 are
    shares of 1, losses in nats; totals are over all finished rounds. ``rounds`` does not count round 0; ``best_round`` may be
    0, and is the earliest of equally good rounds. ``seconds`` is wall time; ``simulated_s`` and ``simulated_j`` (all devices)
    are ``None`` if rounds are not planned.
    """
    key = run.headline
    name, best = Measure.of(key).name, best_round(run, key)
    return {
        "name": run.name,
        "rounds": sum(row["round"] > 0 for row in run.rounds),
        "rounds_planned": run.planned_rounds,
        "devices": run.device_count,
        "metric": key,
        f"final_{name}": _finite_or_none(run.final(key)),
        f"best_{name}": None if best is None else best[key],
        "best_round": None if best is None else best["round"],
        **{key: _finite_or_none(run.final(key)) for key in run.keys},
        "uplink_bytes": sum(row["uplink_bytes"] for row in run.rounds),
        "downlink_bytes": sum(row["downlink_bytes"] for row in run.rounds),
        "seconds": sum(row["seconds"] for row in run.rounds),
        "simulated_s": total_simulated(run, "simulated_s"),
        "simulated_j": total_simulated(run, "simulated_j"),
        "refused": sum(row.get("refused", 0) for row in run.rounds),
    }


def status(run: RunData) -> str:
    """``'finished'``, ``'target accuracy reached'``, ``'no longer improving'`` or ``'unfinished'``, by the recipe."""
    summary = summary_rows(run)
    if summary["rounds_planned"] is None or summary["rounds"] >= summary["rounds_planned"]:
        return "finished"
    training = run.recipe.get("training", {})
    metric = run.task.get("headline") or next(iter(run.recipe.get("task", {}).get("metrics", [])), "loss")
    if target_reached(training.get("target_accuracy", 0.0), run.rounds[-1]):
        return "target accuracy reached"
    ended = patience_ended(training.get("patience", 0), metric, higher_is_better(metric), run.rounds)
    return "no longer improving" if ended else "unfinished"


def run_table(run: RunData) -> Table:
    """A table with a line per round and totals in the footer, for 80 characters; it omits the middle of a long run."""
    columns = round_columns(run, narrow=True)
    summary = summary_rows(run)
    table = narrow_table([column.heading for column in columns], [column.total(summary) for column in columns])
    table.title = Text(f"{run.name}: {status(run)}")
    long = len(run.rounds) > HEAD_ROUNDS + TAIL_ROUNDS + 1
    for row in run.rounds[:HEAD_ROUNDS] if long else run.rounds:
        table.add_row(*(column.cell(row) for column in columns))
    if long:
        table.add_row(*["…"] * len(columns))
        for row in run.rounds[-TAIL_ROUNDS:]:
            table.add_row(*(column.cell(row) for column in columns))
    return table


def compare_table(runs: Sequence[RunData]) -> Table:
    """A table with a line per run, under distinct names; refused updates have a column only if there are any."""
    metric = common_metric(runs)
    summaries = [{**summary_rows(run), "best": (best_round(run, metric) or {}).get(metric)} for run in runs]
    columns = run_columns(runs, metric, any(summary["refused"] for summary in summaries))
    table = narrow_table(["Run", *(column.heading for column in columns)])
    name_column = table.columns[0]
    name_column.justify, name_column.no_wrap, name_column.overflow = "left", False, "fold"
    for name, summary in zip(display_names(runs), summaries, strict=True):
        table.add_row(Text(name), *(column.cell(summary) for column in columns))
    return table


def compare_json(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """:func:`summary_rows` of every run, with ``folder`` and distinct names."""
    named = zip(display_names(runs), runs, strict=True)
    return [{**summary_rows(run), "name": name, "folder": str(run.folder)} for name, run in named]


def narrow_table(headings: Sequence[str], footers: Sequence[str] = ()) -> Table:
    """An empty table for 80 characters: cells aligned right on one line, headings with a line per word."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", show_footer=bool(footers))
    for heading, footer in zip_longest(headings, footers, fillvalue=""):
        table.add_column(heading.replace(" ", "\n"), footer=footer, justify="right", no_wrap=True)
    return table


def best_round(run: RunData, key: str) -> dict[str, Any] | None:
    """The record of the round with the best ``key``, the earliest of equals; ``None`` if no round has a value."""
    sign = 1.0 if run.higher_is_better(key) else -1.0
    measured = [row for row in run.rounds if math.isfinite(number(row.get(key)))]
    return max(measured, key=lambda row: sign * float(row[key]), default=None)


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
