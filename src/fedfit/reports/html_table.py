"""A table of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedfit.reports.columns import Column

DENSE_COLUMNS = 12
"""More columns than this stand closer together."""


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Headings break at spaces, and so do the cells of a column of text; numbers stay on one line, at the right.

    With many columns the letters are smaller, so that the table needs no scrolling on a screen of 1,200 pixels.
    """
    kind = ' class="dense"' if len(columns) > DENSE_COLUMNS else ""
    head = _cells("th", columns, [column.heading for column in columns])
    body = "\n".join(f"<tr>{_cells('td', columns, [column.cell(row) for column in columns])}</tr>" for row in rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cells(tag: str, columns: Sequence[Column], texts: Sequence[str]) -> str:
    marks = [' class="text"' if column.is_text else "" for column in columns]
    return "".join(f"<{tag}{mark}>{escape(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True))
