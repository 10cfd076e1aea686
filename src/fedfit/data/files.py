"""Tables on disk: csv, tsv (never quoted), json (a list of objects), jsonl and parquet, in UTF-8."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedfit.data.table import Table, to_table
from fedfit.errors import DataError

SEPARATORS = {"csv": ",", "tsv": "\t", "semicolons": ";", "bars": "|"}
NAMES_OF_SIGNS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def read_table(path: Path, kind: str, columns: Sequence[str] | None = None, key: str | None = None) -> Table:
    """Read ``path`` as ``kind`` (csv, tsv, json, jsonl or parquet); ``columns`` are the names where the file has no header.

    ``NA`` and ``null`` are words in csv and tsv. Errors name the recipe's ``key`` beside the path. Raises ``DataError`` for a
    file that is missing, empty, not UTF-8 or not of its format.
    """
    return to_table(parse_frame(read_bytes(path), path, kind, columns), str(path) if key is None else f"{path} ({key})")


def parse_frame(
    content: bytes, path: Path, kind: str, columns: Sequence[str] | None = None, setting: str = "data.source"
) -> pd.DataFrame:
    """The rows in ``content``, as ``read_table`` reads them, each cell in the type that the format gives it.

    Args:
        path: the content's origin, for messages.
        setting: the key or option that names the format, for messages.
    """
    if not content or content.isspace():
        raise DataError(f"{path} is empty: it must hold at least one sample")
    if kind == "parquet":
        frame = _parse_parquet(content, path, setting)
    elif kind == "jsonl":
        frame = _parse_jsonl(_decode(content, path), path, setting)
    elif kind == "json":
        frame = _parse_json(_decode(content, path), path, setting)
    else:
        frame = _parse_separated(_decode(content, path), path, kind, columns, setting)
    if frame.empty:
        raise DataError(f"{path} has no rows: it must hold at least one sample")
    return frame


def read_bytes(path: Path) -> bytes:
    """The content of ``path``. Raises ``DataError`` for a file that is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file; check the path (a relative one starts at the working folder)"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name a file that can") from None


def _decode(content: bytes, path: Path) -> str:
    # Replacing bad bytes would train on text that nobody wrote, without a word; so it is an error.
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}, line {line}): re-encode it as UTF-8, e.g. iconv -f latin1 -t utf-8"
        ) from None


def _parse_separated(content: str, path: Path, kind: str, columns: Sequence[str] | None, setting: str) -> pd.DataFrame:
    _check_separator(content.split("\n", 1)[0], path, kind, columns, setting)
    quoting = {"sep": ",", "quoting": 0} if kind == "csv" else {"sep": "\t", "quoting": 3}
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, **quoting}
    try:
        # The header is read as a row: left to pandas, one field too many turns the first column into an index.
        frame = pd.read_csv(io.StringIO(content), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).replace("Error tokenizing data. C error: ", "").split())
        raise DataError(f"{path} is not {kind} ({reason}): mend that line, or choose another {setting}") from None
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


def _check_separator(first_line: str, path: Path, kind: str, columns: Sequence[str] | None, setting: str) -> None:
    """A first line of one field that another sign cuts into several, as many as ``columns``, is of another format."""
    if len(_fields(first_line, SEPARATORS[kind])) > 1:
        return
    for name, sign in SEPARATORS.items():
        found = len(_fields(first_line, sign))
        if found > 1 and (columns is None or found == len(columns)):
            if name in ("csv", "tsv"):
                remedy = f'set {setting} to "{name}"'
            else:
                remedy = f"save it as csv, for example with pandas.read_csv({path.name!r}, sep={sign!r}).to_csv(…, index=False)"
            raise DataError(
                f"{path} is separated by {NAMES_OF_SIGNS[sign]}, and {kind} by {NAMES_OF_SIGNS[SEPARATORS[kind]]}: {remedy}"
            )


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _parse_json(content: str, path: Path, setting: str) -> pd.DataFrame:
    lines = f'for a file with one object a line set {setting} to "jsonl"'
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        remedy = f"; {lines}" if content.lstrip().startswith("{") else ""
        raise DataError(f"{path} is not JSON ({error}): it must be one list of objects{remedy}") from None
    if not isinstance(rows, list):
        raise DataError(
            f'{path} is {_json_name(rows)}, not a list: write [{{"column": value, …}}, …], each object a sample; {lines}'
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f'{path}, item {number} is {_json_name(row)}, not an object: write {{"column": value}}')
    return pd.DataFrame(rows, dtype=object)


def _json_name(value: object) -> str:
    """The kind of ``value`` as JSON has it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _parse_jsonl(content: str, path: Path, setting: str) -> pd.DataFrame:
    if content.lstrip().startswith("["):
        raise DataError(
            f'{path} begins with a list, not with a JSON object: write one object a line, or set {setting} to "json"'
        )
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


def _parse_parquet(content: bytes, path: Path, setting: str) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not parquet ({reason}): check the file, or choose another {setting}") from None
    return frame
