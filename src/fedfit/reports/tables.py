"""The numbers of a run, as values for programs and as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedfit.reports.read import RunData, display_names, number
from fedfit.units import format_bytes, format_seconds

HEAD_ROUNDS, TAIL_ROUNDS = 5, 15
"""Rounds that a terminal shows of a long run; the report shows all of them."""

ROUND_HEADINGS = ("Round", "Accuracy", "Macro-F1", "Test loss", "Train loss", "Uplink", "Downlink", "Time", "Refused")
RUN_HEADINGS = ("Run", "Rounds", "Devices", "Acc. %", "Best %", "F1 %", "Loss", "Uplink", "Downlink", "Time", "Refused")


def summary_rows(run: RunData) -> dict[str, Any]:
    """The run in one flat dict, in the order to be shown; only values that JSON knows (not measured is ``None``).

    Accuracies and F1 are shares of 1, the loss is in nats a sample, totals are over all finished rounds.
    ``rounds`` does not count round 0; ``best_round`` may be 0, and is the first of equals.
    """
    last = run.rounds[-1]
    best = _best_round(run)
    return {
        "name": run.name,
        "rounds": sum(row["round"] > 0 for row in run.rounds),
        "rounds_planned": run.planned_rounds,
        "devices": run.device_count,
        "final_accuracy": _measured(last["test_accuracy"]),
        "best_accuracy": None if best is None else best["test_accuracy"],
        "best_round": None if best is None else best["round"],
        "macro_f1": _measured(last["test_macro_f1"]),
        "test_loss": _measured(last["test_loss"]),
        "uplink_bytes": sum(row["uplink_bytes"] for row in run.rounds),
        "downlink_bytes": sum(row["downlink_bytes"] for row in run.rounds),
        "seconds": sum(row["seconds"] for row in run.rounds),
        "refused": sum(row.get("refused", 0) for row in run.rounds),
    }


def status(run: RunData) -> str:
    """``'finished'``, ``'target accuracy reached'`` or ``'unfinished'``, as far as the recipe tells."""
    summary = summary_rows(run)
    if summary["rounds_planned"] is None or summary["rounds"] >= summary["rounds_planned"]:
        return "finished"
    target = run.recipe.get("training", {}).get("target_accuracy", 0.0)
    reached = 0 < target <= (summary["final_accuracy"] or 0.0)
    return "target accuracy reached" if reached else "unfinished"


def run_table(run: RunData) -> Table:
    """The run round by round, totals at its foot; the middle of a long run is left out.

    The refused updates have a column when there are any.
    """
    summary = summary_rows(run)
    columns = len(ROUND_HEADINGS) - (summary["refused"] == 0)
    table = _narrow_table(ROUND_HEADINGS[:columns], ("total", *[""] * 4, *totals(summary)))
    table.title = Text(f"{run.name}: {status(run)}")
    long = len(run.rounds) > HEAD_ROUNDS + TAIL_ROUNDS + 1
    for row in run.rounds[:HEAD_ROUNDS] if long else run.rounds:
        table.add_row(*round_cells(row)[:columns])
    if long:
        table.add_row(*["…"] * columns)
        for row in run.rounds[-TAIL_ROUNDS:]:
            table.add_row(*round_cells(row)[:columns])
    return table


def compare_table(runs: Sequence[RunData]) -> Table:
    """One line a run, names told apart; the refused updates have a column when there are any."""
    summaries = [summary_rows(run) for run in runs]
    columns = len(RUN_HEADINGS) - all(summary["refused"] == 0 for summary in summaries)
    table = _narrow_table(RUN_HEADINGS[:columns])
    name_column = table.columns[0]
    name_column.justify, name_column.no_wrap, name_column.overflow = "left", False, "fold"
    for name, summary in zip(display_names(runs), summaries, strict=True):
        table.add_row(Text(name), *_run_cells(summary)[: columns - 1])
    return table


def compare_json(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """:func:`summary_rows` of every run, with ``folder``; names told apart."""
    named = zip(display_names(runs), runs, strict=True)
    return [{**summary_rows(run), "name": name, "folder": str(run.folder)} for name, run in named]


def round_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One round under ``ROUND_HEADINGS``."""
    return (
        str(row["round"]),
        format_share(row["test_accuracy"]),
        format_share(row["test_macro_f1"]),
        format_loss(row["test_loss"]),
        format_loss(row["train_loss"]),
        format_bytes(row["uplink_bytes"]),
        format_bytes(row["downlink_bytes"]),
        format_seconds(row["seconds"]),
        format_count(row.get("refused", 0)),
    )


def totals(summary: dict[str, Any]) -> tuple[str, ...]:
    """Uplink, downlink, time and refused updates of a whole run."""
    return (
        format_bytes(summary["uplink_bytes"]),
        format_bytes(summary["downlink_bytes"]),
        format_seconds(summary["seconds"]),
        format_count(summary["refused"]),
    )


def format_share(share: float | None) -> str:
    """``0.88534`` → ``'88.53 %'``; a dash for what was not measured."""
    return f"{100 * share:.2f} %" if share is not None and math.isfinite(share) else "–"


def format_loss(loss: float | None) -> str:
    """``0.34567`` → ``'0.3457'``; a dash for what was not measured."""
    return f"{loss:.4f}" if loss is not None and math.isfinite(loss) else "–"


def format_count(count: float) -> str:
    """``12000`` → ``'12,000'``."""
    return f"{count:,.0f}"


def format_rounds(summary: dict[str, Any]) -> str:
    """``'3 of 5'``, or ``'5'`` when that was all."""
    done, planned = summary["rounds"], summary["rounds_planned"]
    return str(done) if planned in (None, done) else f"{done} of {planned}"


def _narrow_table(headings: Sequence[str], footers: Sequence[str] = ()) -> Table:
    """Numbers to the right and never broken; headings broken at spaces, so that 80 columns are enough."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", show_footer=bool(footers))
    for heading, footer in zip_longest(headings, footers[: len(headings)], fillvalue=""):
        table.add_column(heading.replace(" ", "\n"), footer=footer, justify="right", no_wrap=True)
    return table


def _run_cells(summary: dict[str, Any]) -> tuple[str, ...]:
    return (
        format_rounds(summary).replace(" of ", "/"),
        format_count(summary["devices"]),
        *(format_share(summary[key]).removesuffix(" %") for key in ("final_accuracy", "best_accuracy", "macro_f1")),
        format_loss(summary["test_loss"]),
        *totals(summary),
    )


def _best_round(run: RunData) -> dict[str, Any] | None:
    measured = [row for row in run.rounds if math.isfinite(number(row["test_accuracy"]))]
    return max(measured, key=lambda row: float(row["test_accuracy"]), default=None)


def _measured(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
