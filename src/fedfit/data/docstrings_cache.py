"""The harvested rows as a file: a head line with count and digest, then one JSON line a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from fedfit.atomic import write_atomic

R = TypeVar("R", bound=tuple[str, ...])


class Row(NamedTuple):
    """One text, its project, and ``train`` or ``test``."""

    text: str
    label: str
    split: str


def read_rows(path: Path, make: Callable[..., R]) -> list[R] | None:
    """The rows, each made of its cells, or ``None`` for a file that is absent or damaged: the caller harvests again."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head) != {"blake2b": _digest(body)}:
            return None
        return [make(*json.loads(line)) for line in body.decode().split("\n") if line]
    except (OSError, ValueError, TypeError):
        return None


def write_rows(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Write the rows, with their digest in the head line. Raises ``OSError``."""
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    head = json.dumps({"blake2b": _digest(body)}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, head + b"\n" + body)


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
