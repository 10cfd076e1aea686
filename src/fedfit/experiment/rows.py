"""Rows of one's own for ``fedfit predict``: read from a file or standard input, written with two columns more."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedfit.atomic import write_atomic
from fedfit.data.files import SEPARATORS, parse_frame, read_bytes
from fedfit.data.named import NAMED_SETS
from fedfit.data.table import cell_text, to_table
from fedfit.data_settings import FILE_SOURCES, DataSettings
from fedfit.errors import DataError, RunFolderError, choose, nearest

if TYPE_CHECKING:
    from fedfit.experiment.tuned import Prediction

_ADDED = ("prediction", "probability")
_LONGEST = 60  # letters of a line in a message
_BREAKS = re.compile(r"[\t\r\n]+")


@dataclass(frozen=True)
class Rows:
    """Rows with all their columns; ``origin`` names them in messages, ``kind`` is their format."""

    origin: str
    kind: str
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def texts(
        self, data: DataSettings, text: Sequence[str] = (), pair: str | None = None, *, prompts: bool = False
    ) -> tuple[list[str], list[str] | None]:
        """The texts, and the second sentences where the recipe trains on pairs; or the prompts of a language model.

        Args:
            prompts: whether the run answers prompts, whose columns are joined by a line break.
            data: the recipe's; its columns are read unless ``text`` or ``pair`` name others. A set that names its own
                (``pydocs``, ``mrpc``) has its texts in ``text`` here, and its second sentences in ``pair``.

        Raises:
            DataError: for a column that is missing.
        """
        names, second = columns_of(data, prompts=prompts)
        if pair is not None and second is None:
            trained = "prompts" if prompts else "single texts"
            raise DataError(f"--pair {pair}: the run was trained on {trained}; leave it out")
        table, second = to_table(self.frame, self.origin), pair or second
        key = "--text" if text else "data.prompt" if prompts else "data.text"
        texts = table.texts(key, text or names, "\n" if prompts else " ")
        return texts, None if second is None else table.texts("--pair" if pair else "data.pair", [second])

    def with_predictions(self, predictions: Sequence[Prediction]) -> Rows:
        """The rows with the column ``prediction`` at their end, and ``probability`` where predictions have one."""
        added: dict[str, list[Any]] = {"prediction": [prediction.label for prediction in predictions]}
        probabilities = [found.probability for found in predictions if found.probability is not None]
        if len(probabilities) == len(predictions):
            added["probability"] = [round(probability, 6) for probability in probabilities]
        return Rows(self.origin, self.kind, self.frame.assign(**added))


def columns_of(data: DataSettings, *, prompts: bool = False) -> tuple[Sequence[str], str | None]:
    """The columns of the text, or of the prompt, and of the second sentence in rows like those that a recipe trains on."""
    if data.source in FILE_SOURCES or data.source == "hub":
        return (data.prompt, None) if prompts else (data.text, data.pair)
    if prompts:
        return ("prompt",), None
    hub = NAMED_SETS[data.source].hub if data.source in NAMED_SETS else None
    return ("text",), "pair" if hub is not None and hub.pair is not None else None


class NoHeader(DataError):
    """Lines on standard input that begin without the names of the columns; the text ends in a command that has them."""


def read_rows(source: Path | None, kind: str | None, columns: Sequence[str] | None = None, texts: Sequence[str] = ()) -> Rows:
    """The rows of a file, or of standard input when ``source`` is ``None``.

    Args:
        kind: csv, tsv, json, jsonl or parquet; by default that of the file's ending, and csv on standard input.
        columns: names of the columns where csv or tsv have no header.
        texts: the columns of the text.

    Raises:
        NoHeader: for lines on standard input whose first one names none of ``texts``.
        DataError: for a file that cannot be read, for a kind that does not exist, and for rows that have a column
            ``prediction`` or ``probability`` already.
    """
    found = kind or (source.suffix.removeprefix(".") if source is not None else "csv")
    if found not in FILE_SOURCES:
        given = f"--format {found}" if kind else f"--input {source}: the format {found!r} by the ending; give --format"
        raise DataError(f"{given}: {choose(found, FILE_SOURCES)}")
    origin = source if source is not None else Path("standard input")
    content = read_bytes(source) if source is not None else sys.stdin.buffer.read()
    if source is None and found in SEPARATORS and columns is None and texts:
        _check_header(content, SEPARATORS[found], texts)
    frame = parse_frame(content, origin, found, columns if found in ("csv", "tsv") else None, "--format")
    taken = [name for name in _ADDED if name in frame.columns]
    if taken:
        raise DataError(f"{origin} has a column {taken[0]!r} already; rename it or take it out")
    return Rows(f"{origin} (--input)", found, frame)


def _check_header(content: bytes, separator: str, texts: Sequence[str]) -> None:
    """Raises ``NoHeader`` for a first line of one field, or one alone, that is no column's name: a text typed without one."""
    first, *rest = content.decode("utf-8", "replace").lstrip("\ufeff").splitlines() or [""]
    names = next(csv.reader([first], delimiter=separator), [])
    meant = set(texts) & set(re.split(r"[,;\t|]", first)) or nearest(first, texts)
    if not first.strip() or meant or (any(line.strip() for line in rest) and len(names) > 1):
        return
    first = first if len(first) <= _LONGEST else f"{first[:_LONGEST]}…"
    header = separator.join(texts)
    typed = first if len(texts) == 1 else separator.join("…" for _ in texts)
    lines = shlex.quote(f"{header}\n{typed}\n".replace("\n", "\\n").replace("%", "%%"))
    raise NoHeader(
        f"standard input: the first line, {first!r}, was read as the header, which names the columns; write one above it: "
        f"printf {lines}"
    )


def output_kind(output: Path | None, rows: Rows) -> str:
    """The format to write: by the ending of ``output``; on standard output that of ``rows``, and csv where they are parquet.

    Raises:
        DataError: for another ending.
    """
    if output is None:
        return rows.kind if rows.kind != "parquet" else "csv"
    kind = output.suffix.removeprefix(".")
    if kind not in FILE_SOURCES:
        raise DataError(f"--output {output}: the ending says the format; {choose(kind, FILE_SOURCES)}")
    return kind


def write_rows(rows: Rows, kind: str, output: Path | None) -> None:
    """Writes ``rows`` as ``kind`` to ``output``, or to standard output when that is ``None``.

    Raises:
        RunFolderError: when the file cannot be written.
    """
    content = _as_bytes(rows.frame, kind)
    if output is None:
        sys.stdout.write(content.decode())
        return
    try:
        write_atomic(output, content)
    except OSError as error:
        raise RunFolderError(f"{output} cannot be written: {error.strerror or error}; choose another --output") from error


def _as_bytes(frame: pd.DataFrame, kind: str) -> bytes:
    if kind == "parquet":
        content = io.BytesIO()
        frame.to_parquet(content, index=False)
        return content.getvalue()
    if kind not in ("json", "jsonl"):
        return _as_separated(frame, kind).encode()
    objects = _as_json_objects(frame)
    return ("".join(f"{line}\n" for line in objects) if kind == "jsonl" else "[\n" + ",\n".join(objects) + "\n]\n").encode()


def _as_json_objects(frame: pd.DataFrame) -> list[str]:
    cells = zip(*(frame[name].tolist() for name in frame.columns), strict=True)
    lines = (dict(zip(map(str, frame.columns), map(_json_cell, row), strict=True)) for row in cells)
    return [json.dumps(line, ensure_ascii=False, default=cell_text) for line in lines]


def _json_cell(value: Any) -> Any:
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)) else value


def _as_separated(frame: pd.DataFrame, kind: str) -> str:
    """Lines of ``frame``; a tsv is never quoted here, so tabs and breaks within its cells become spaces."""
    cells = pd.DataFrame({name: [cell_text(value) for value in frame[name].tolist()] for name in frame.columns})
    if kind == "csv":
        return cells.to_csv(index=False, lineterminator="\n")
    rows = [cells.columns.tolist(), *cells.itertuples(index=False)]
    return "".join("\t".join(_BREAKS.sub(" ", cell) for cell in row) + "\n" for row in rows)
