"""Answers of a language model before and after the run, side by side: for a terminal, and columns for the page."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedfit.reports.columns import Column
from fedfit.reports.files import damaged
from fedfit.reports.read import EVALUATION, RunData

SHOWN = 10
"""Answers that a terminal shows; the page shows all that were recorded."""

HEADINGS = {"prompt": "Prompt", "before": "Before", "after": "After", "reference": "Reference"}
NOTE = "Greedy answers to the first test rows: of the base model, before, and of the final model, after. Long texts are cut."


def answers_of(run: RunData) -> list[dict[str, str]]:
    """The answers of the final evaluation, by the keys of ``HEADINGS``; empty for a run without any.

    Raises:
        RunFolderError: for anything but a list of objects of texts.
    """
    found = (run.evaluation or {}).get("answers", [])
    texts = isinstance(found, list) and all(
        isinstance(item, dict) and all(isinstance(value, str) for value in item.values()) for item in found
    )
    if not texts:
        raise damaged(str(run.folder / EVALUATION), "`answers` must be a list of objects of texts")
    return list(found)


def answers_table(answers: list[dict[str, str]]) -> Table:
    """The first ``SHOWN`` of ``answers`` for a terminal of any width: four columns of wrapped text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_lines=True, title="Answers", title_justify="left", expand=True)
    for heading in HEADINGS.values():
        table.add_column(heading, ratio=1, overflow="fold")
    for answer in answers[:SHOWN]:
        table.add_row(*(Text(answer.get(key, "")) for key in HEADINGS))
    return table


def answer_columns() -> list[Column]:
    """Columns of the page's table."""

    def cell(key: str) -> Any:
        return lambda row: row.get(key, "")

    return [Column(heading, cell(key), kind="text") for key, heading in HEADINGS.items()]
