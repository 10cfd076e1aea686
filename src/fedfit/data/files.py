"""Tables on disk to labelled texts: csv, tsv (never quoted), jsonl and parquet, in UTF-8."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedfit.data.corpus import LabelledTexts
from fedfit.errors import DataError, did_you_mean


def read_table(path: Path, kind: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read ``path`` as ``kind`` (csv, tsv, jsonl or parquet); ``columns`` are the names where the file has no header.

    Values of csv and tsv stay strings: ``NA`` and ``null`` are words here. Raises ``DataError`` for a file that is
    missing, empty, not UTF-8 or not of its format.
    """
    content = _read_bytes(path)
    if kind == "parquet":
        frame = _parse_parquet(content, path)
    elif kind == "jsonl":
        frame = _parse_jsonl(_decode(content, path), path)
    else:
        frame = _parse_separated(_decode(content, path), path, kind, columns)
    if frame.empty:
        raise DataError(f"{path} has no rows: it must hold at least one sample")
    return frame


def to_labelled_texts(frame: pd.DataFrame, text: Sequence[str], pair: str | None, label: str, origin: str) -> LabelledTexts:
    """Columns to texts: those named ``text`` joined by a space and stripped, a missing text being empty.

    All columns but the texts are kept for a partition by column. Raises ``DataError`` for a column that is not there
    and for a row without a label.
    """
    if not text:
        raise DataError("data.text = []: name at least one column of text")
    for key, name in [*(("data.text", name) for name in text), ("data.pair", pair), ("data.label", label)]:
        if name is not None:
            _check_column(frame, key, name, origin)
    texts = [" ".join(parts).strip() for parts in zip(*(_strings(frame[name]) for name in text), strict=True)]
    pairs = None if pair is None else [value.strip() for value in _strings(frame[pair])]
    for values in (texts, pairs or []):
        _check_encodable(values, origin)
    spent = {*text, pair}
    columns = {str(name): _strings(frame[name]) for name in frame.columns if name not in spent}
    return LabelledTexts(origin, texts, _labels(frame[label], label, origin), pairs, columns)


def label_name(value: object) -> str:
    """A label's value as its name: ``1`` and ``1.0`` are both ``'1'``, a missing one is empty."""
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas turns whole numbers into floats when one is missing
    return str(value).strip()


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; check the path (a relative one starts at the working folder)"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name a file that can") from None
    if not content or content.isspace():
        raise DataError(f"{path} is empty: it must hold at least one sample")
    return content


def _decode(content: bytes, path: Path) -> str:
    # Replacing bad bytes would train on text that nobody wrote, without a word; so it is an error.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}, line {line}): re-encode it as UTF-8, e.g. iconv -f latin1 -t utf-8"
        ) from None


def _parse_separated(content: str, path: Path, kind: str, columns: Sequence[str] | None) -> pd.DataFrame:
    quoting = {"sep": ",", "quoting": 0} if kind == "csv" else {"sep": "\t", "quoting": 3}
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, **quoting}
    try:
        # The header is read as a row: left to pandas, one field too many turns the first column into an index.
        frame = pd.read_csv(io.StringIO(content), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split())
        raise DataError(f"{path} is not {kind} ({reason}): mend that line, or choose another data.source") from None
    names: Sequence[Hashable] = columns if columns is not None else frame.iloc[0].tolist()
    if len(names) != frame.shape[1]:
        raise DataError(
            f"data.columns = {list(names)!r}: {len(names)} names, but {path} has {frame.shape[1]} columns; name each"
        )
    if len(set(names)) != len(names):
        raise DataError(f"{path} has two columns of one name in {list(names)!r}: rename one, or give data.columns")
    body: pd.DataFrame = (frame if columns is not None else frame.iloc[1:]).copy()
    body.columns = pd.Index(list(names))
    return body


def _parse_jsonl(content: str, path: Path) -> pd.DataFrame:
    rows = []
    # Not splitlines(): U+2028 and its like may stand unescaped inside a JSON string.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            rows.append(_parse_json_object(line, path, number))
    return pd.DataFrame(rows, dtype=object)


def _parse_json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is not JSON ({error}): each line must be one object") from None
    if not isinstance(row, dict):
        raise DataError(f'{path}, line {number} is {type(row).__name__}, not a JSON object: write {{"column": value}}')
    return row


def _parse_parquet(content: bytes, path: Path) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not parquet ({reason}): check the file, or choose another data.source") from None
    return frame


def _check_column(frame: pd.DataFrame, key: str, name: str, origin: str) -> None:
    columns = [str(column) for column in frame.columns]
    if name not in columns:
        remedy = did_you_mean(name, columns) or "name one of these, or give data.columns if a file has no header"
        listed = ", ".join(column[:40] for column in columns)
        raise DataError(f"{key} = {name!r}: {origin} has no such column; it has {listed}: {remedy.strip()}")


def _check_encodable(texts: Sequence[str], origin: str) -> None:
    # JSON can spell half a surrogate pair, which no tokenizer takes.
    for row, text in enumerate(texts, start=1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"{origin}, row {row}: the text is not valid Unicode ({error.reason}); mend or drop it") from None


def _labels(values: pd.Series[Any], column: str, origin: str) -> list[str]:
    labels = [label_name(value) for value in values.tolist()]
    missing = [row for row, label in enumerate(labels, start=1) if not label]
    if missing:
        count = "" if len(missing) == 1 else f", and {len(missing) - 1} more rows"
        raise DataError(
            f"data.label = {column!r}: {origin} has no label in row {missing[0]}{count} "
            "(the first sample is row 1): label them or take them out"
        )
    return labels


def _strings(values: pd.Series[Any]) -> list[str]:
    return ["" if _is_missing(value) else str(value) for value in values.tolist()]


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value))
