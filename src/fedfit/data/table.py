"""Rows with named columns, all cells as strings: the form in which every source hands over its data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fedfit.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name; ``origin`` names the file or split in error messages. A missing cell is empty."""

    origin: str
    columns: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, key: str, name: str) -> Sequence[str]:
        """The cells of the column that the recipe's ``key`` names. Raises ``DataError`` for an unknown column."""
        if name not in self.columns:
            remedy = did_you_mean(name, self.columns) or "name one of these, or give data.columns if a file has no header"
            listed = ", ".join(column[:40] for column in self.columns)
            raise DataError(f"{key} = {name!r}: {self.origin} has no such column; it has {listed}: {remedy.strip()}")
        return self.columns[name]

    def texts(self, key: str, names: Sequence[str], joined_by: str = " ") -> list[str]:
        """One text a row: the columns ``names``, joined by ``joined_by`` and stripped.

        Joined by a line break, columns that are empty in a row are left out.

        Raises ``DataError`` for no names, for an unknown column, and for a text that no tokenizer takes.
        """
        if not names:
            raise DataError(f"{key} = []: name at least one column of text")
        rows = zip(*(self.column(key, name) for name in names), strict=True)
        if joined_by != " ":
            rows = (tuple(part for part in row if part.strip()) for row in rows)  # type: ignore[assignment]
        texts = [joined_by.join(row).strip() for row in rows]
        for row, text in enumerate(texts, start=1):
            self._check_encodable(text, row)
        return texts

    def select(self, indices: Sequence[int] | np.ndarray) -> Table:
        """The rows at ``indices``, in that order."""
        chosen = [int(index) for index in indices]
        return replace(self, columns={name: [cells[index] for index in chosen] for name, cells in self.columns.items()})

    def with_column(self, name: str, cells: Sequence[str]) -> Table:
        """The table with ``cells`` as its column ``name``."""
        return replace(self, columns={**self.columns, name: cells})

    def without_column(self, name: str) -> Table:
        """The table without the column ``name``."""
        return replace(self, columns={other: cells for other, cells in self.columns.items() if other != name})

    def _check_encodable(self, text: str, row: int) -> None:
        # JSON can spell half a surrogate pair, which no tokenizer takes.
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.origin}, row {row}: the text is not valid Unicode ({error.reason}); mend or drop it"
            ) from None


@dataclass(frozen=True)
class Reading:
    """The columns that a task reads, by their role; each task reads its own few.

    Args:
        text: of the text; ``label``: of its class; ``pair``: of the second sentence of a pair.
        prompt: of what a model is asked; ``response``: of the answer that it learns; ``answer``: of the exact answer.
        choices: of a row's own possible answers, divided by ``/``; absent where all rows have the same.
        chosen: of the better answer; ``rejected``: of the worse one.
    """

    text: Sequence[str] = ()
    label: str = ""
    pair: str | None = None
    prompt: Sequence[str] = ()
    response: str = ""
    answer: str | None = None
    choices: str | None = None
    chosen: str = ""
    rejected: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables of a data set, and the columns to read in each; ``validation`` is absent unless the source has it."""

    train: Table
    test: Table
    reading: Reading
    validation: Table | None = None


def to_table(frame: pd.DataFrame, origin: str) -> Table:
    """The cells of ``frame`` as strings."""
    return Table(origin, {str(name): [cell_text(value) for value in frame[name].tolist()] for name in frame.columns})


def cell_text(value: object) -> str:
    """A cell as a string: ``1`` and ``1.0`` are both ``'1'``, a missing one is empty, a list or an object is JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=cell_text)
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas turns whole numbers into floats when one is missing
    return str(value)
