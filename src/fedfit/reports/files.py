"""Parses and checks the files of a run folder; an error names the damaged file and line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedfit.errors import RunFolderError
from fedfit.metric_names import PREFIXES

PLANNED = ("rank", "simulated_s", "simulated_j")
"""Keys of a planned round; null or missing in other rounds."""
TIME_PARTS, ENERGY_PARTS = ("compute", "uplink", "downlink"), ("compute", "uplink", "circuit")
CHARGE = (*(f"{part}_s" for part in TIME_PARTS), *(f"{part}_j" for part in ENERGY_PARTS))
"""The keys of a charge in ``cost.formula`` and ``cost.sent``; null for a value that is not finite (a device without a link)."""


def read_toml(path: Path) -> dict[str, Any]:
    """The table of the TOML file ``path``."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(str(path), str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or ``None`` if the file does not exist."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise damaged(str(path), str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise damaged(str(path), "it is not a JSON object")
    return value


def read_lines(path: Path, required: Sequence[str], nullable: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each line of ``path``; nothing if the file does not exist.

    Args:
        required: keys that hold a number in every line.
        nullable: keys that hold a number or null in every line.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield _parse_line(line, required, nullable)
                except (ValueError, RecursionError) as error:
                    # Only the last line can lack its newline: its writer was interrupted.
                    if line.endswith(b"\n"):
                        raise damaged(f"{path}, line {count}", str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _parse_line(line: bytes, required: Sequence[str], nullable: Sequence[str]) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    for key in required:
        if not is_number(row.get(key)):
            raise ValueError(f"`{key}` must be a number")
    for key in nullable:
        if key not in row or not _is_number_or_null(row[key]):
            raise ValueError(f"`{key}` must be a number or null")
    for key in (*PLANNED, *(key for key in row if key.startswith(PREFIXES))):
        if not _is_number_or_null(row.get(key)):
            raise ValueError(f"`{key}` must be a number or null")
    if row.get("cost") is not None:
        _check_cost(row["cost"])
    return row


def _check_cost(cost: object) -> None:
    if (
        not isinstance(cost, dict)
        or not isinstance(cost.get("binding"), str)
        or not _is_number_or_null(cost.get("frequency_hz"))
    ):
        raise ValueError("`cost` must be null or an object with `binding` and `frequency_hz`")
    if not _is_number_or_null(cost.get("spent_j")):
        raise ValueError("`cost.spent_j` must be a number or null")
    for name in ("formula", "sent"):
        charge = cost.get(name)
        if not isinstance(charge, dict) or not all(key in charge and _is_number_or_null(charge[key]) for key in CHARGE):
            raise ValueError(f"`cost.{name}` must have {', '.join(CHARGE)}, each a number or null")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number of JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_null(value: object) -> bool:
    return value is None or is_number(value)


def damaged(where: str, reason: str) -> RunFolderError:
    """The error for the damaged file or line ``where``."""
    return RunFolderError(f"{where} is damaged ({reason}): restore it, or run the recipe again with `--force`")


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read ({error.strerror}): fix its permissions and try again")
