"""Tables of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedfit.reports.columns import Column

DENSE_COLUMNS = 12
"""Tables of more columns than this have smaller letters and gaps."""


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as HTML. Headings and labels wrap at spaces, texts anywhere; numbers stay on one line, aligned right.

    A table of many columns has smaller letters, so that it fits a screen of 1,200 pixels without scrolling.
    """
    kind = ' class="dense"' if len(columns) > DENSE_COLUMNS else ""
    head = _cells("th", columns, [column.heading for column in columns], [column.hint for column in columns])
    body = "\n".join(f"<tr>{_cells('td', columns, [column.cell(row) for column in columns])}</tr>" for row in rows)
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cells(tag: str, columns: Sequence[Column], texts: Sequence[str], hints: Sequence[str] = ()) -> str:
    marks = ["" if column.kind == "number" else f' class="{column.kind}"' for column in columns]
    titles = [f' title="{escape(hint)}"' if hint else "" for hint in hints or [""] * len(columns)]
    marks = [mark + title for mark, title in zip(marks, titles, strict=True)]
    return "".join(f"<{tag}{mark}>{escape(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True))
