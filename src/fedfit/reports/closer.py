"""The page's sections on the final model: answers; scores of each class, and the most confident wrong predictions."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fedfit.reports.answers import NOTE, answer_columns, answers_of
from fedfit.reports.columns import Column, format_count
from fedfit.reports.confusion import SCORES, records_of
from fedfit.reports.html_table import table
from fedfit.reports.metrics import format_share
from fedfit.reports.own_models import own_table
from fedfit.reports.read import RunData


def closer_look(run: RunData) -> str:
    """The sections as HTML; empty if the run has neither models of devices' own nor an evaluation of its final model."""
    classes, errors = records_of(run, "classes"), records_of(run, "errors")
    parts = []
    columns, models, note = own_table(run)
    if models:
        parts.append(_section("Devices' own models", table(columns, models), note))
    if answers := answers_of(run):
        parts.append(_section("Answers", table(answer_columns(), answers), NOTE))
    if classes:
        parts.append(_section("Classes", table(_class_columns(), classes)))
    if errors:
        shown = f"The {len(errors)} wrong predictions on the test set" if len(errors) > 1 else "The wrong prediction"
        note = f"{shown} with the highest probability. Long texts are cut."
        pairs = any("pair" in error for error in errors)
        parts.append(_section("Confidently wrong", table(_error_columns(pairs=pairs), errors), note))
    return "\n".join(parts)


def _section(title: str, content: str, note: str = "") -> str:
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}{below}\n</section>"


def _class_columns() -> list[Column]:
    return [
        Column("Class", lambda row: str(row.get("label")), kind="label"),
        *(Column(heading, _count(key)) for heading, key in (("Samples", "samples"), ("Predicted", "predicted"))),
        *(Column(name.capitalize(), _share(name)) for name in SCORES),
    ]


def _error_columns(*, pairs: bool) -> list[Column]:
    texts = [Column(key.capitalize(), _text(key), kind="text") for key in ("text", *(["pair"] if pairs else []))]
    labels = [Column(key.capitalize(), _text(key), kind="label") for key in ("true", "predicted")]
    return [*texts, *labels, Column("Probability", _share("probability"))]


def _text(key: str) -> Any:
    return lambda row: str(row.get(key, ""))


def _count(key: str) -> Any:
    def cell(row: Mapping[str, Any]) -> str:
        return format_count(row[key]) if isinstance(row.get(key), int | float) else ""

    return cell


def _share(key: str) -> Any:
    return lambda row: format_share(row.get(key))
