"""Rows of one's own for ``fedfit predict``: read from a file or standard input, written with two columns more."""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedfit.atomic import write_atomic
from fedfit.data.files import read_table
from fedfit.data.table import Table
from fedfit.errors import DataError, RunFolderError, choose
from fedfit.settings import FILE_SOURCES, DataSettings

if TYPE_CHECKING:
    from fedfit.experiment.use import Prediction

COLUMNS = ("prediction", "probability")


def read_rows(source: Path | None, kind: str | None, columns: Sequence[str] | None = None) -> Table:
    """The table in a file, or on standard input when ``source`` is ``None``.

    Args:
        kind: csv, tsv, jsonl or parquet; by default that of the file's ending, and csv on standard input.
        columns: names of the columns where csv or tsv have no header.

    Raises:
        DataError: for a file that cannot be read, and for a kind that does not exist.
    """
    found = kind or (source.suffix.removeprefix(".") if source is not None else "csv")
    if found not in FILE_SOURCES:
        raise DataError(f"--format {found}: {choose(found, FILE_SOURCES)}")
    if source is not None:
        return read_table(source, found, columns, "--input")
    with tempfile.TemporaryDirectory(prefix="fedfit-") as folder:
        copy = Path(folder) / f"stdin.{found}"
        copy.write_bytes(sys.stdin.buffer.read())
        return read_table(copy, found, columns, "--input, from standard input")


def texts_of(table: Table, data: DataSettings) -> tuple[list[str], list[str] | None]:
    """The texts that the run's recipe reads from ``table``, and the second sentences of a pair.

    A source of the recipe that names its own columns (``pydocs``, ``ag_news``) has its texts in ``text``.

    Raises:
        DataError: for a column that is missing.
    """
    own = data.source in FILE_SOURCES or data.source == "hub"
    names, pair = (data.text, data.pair) if own else (("text",), "pair" if "pair" in table.columns else None)
    texts = table.texts("data.text", names)
    return texts, None if pair is None else table.texts("data.pair", [pair])


def with_predictions(table: Table, predictions: Sequence[Prediction]) -> Table:
    """``table`` with the columns ``prediction`` and ``probability``.

    Raises:
        DataError: when it has a column of one of these names.
    """
    taken = [name for name in COLUMNS if name in table.columns]
    if taken:
        raise DataError(f"{table.origin} has a column {taken[0]!r} already; rename it")
    labelled = table.with_column("prediction", [prediction.label for prediction in predictions])
    return labelled.with_column("probability", [f"{prediction.probability:.6f}" for prediction in predictions])


def write_rows(table: Table, output: Path | None) -> None:
    """Writes ``table`` as CSV, TSV or JSONL by the file's ending; CSV to standard output when ``output`` is ``None``.

    Raises:
        DataError: for another ending.
        RunFolderError: when the file cannot be written.
    """
    kind = output.suffix.removeprefix(".") if output is not None else "csv"
    if kind not in ("csv", "tsv", "jsonl"):
        raise DataError(f"--output {output}: {choose(kind, ('csv', 'tsv', 'jsonl'))}")
    text = _as_json_lines(table) if kind == "jsonl" else _as_separated(table, "," if kind == "csv" else "\t")
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_atomic(output, text.encode())
    except OSError as error:
        raise RunFolderError(f"{output} cannot be written: {error.strerror or error}; choose another --output") from error


def _as_json_lines(table: Table) -> str:
    names = list(table.columns)
    rows = zip(*table.columns.values(), strict=True)
    return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def _as_separated(table: Table, separator: str) -> str:
    """Lines of ``table``; a tsv is never quoted here, so breaks within its cells become spaces."""
    rows = [list(row) for row in zip(*table.columns.values(), strict=True)]
    if separator == "\t":
        lines = [list(table.columns), *([" ".join(cell.split()) for cell in row] for row in rows)]
        return "".join("\t".join(line) + "\n" for line in lines)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(table.columns), *rows])
    return text.getvalue()
