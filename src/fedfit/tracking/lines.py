"""Files of JSON lines that grow with the rounds, each with the checksum of all that was written so far."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import xxhash

from fedfit.atomic import write_atomic
from fedfit.errors import RunFolderError
from fedfit.records import DeviceRecord, DeviceScore, RoundRecord
from fedfit.tracking.needs import Mark

_Record = TypeVar("_Record", RoundRecord, DeviceRecord, DeviceScore)


class Lines(Generic[_Record]):
    """The records of one ``kind`` in the file at ``path``.

    The checksum grows with each line, so that a mark costs nothing, however long the file is.
    """

    def __init__(self, path: Path, kind: type[_Record]) -> None:
        self._path = path
        self._kind: type[_Record] = kind
        self._length_bytes, self._digest = 0, xxhash.xxh3_64()

    @property
    def mark(self) -> Mark:
        """The length of the file in bytes, and the checksum of the whole."""
        return Mark(self._length_bytes, self._digest.hexdigest())

    def append(self, records: Sequence[_Record]) -> None:
        """Adds ``records`` and has them on disk when it returns."""
        payload = b"".join(_line(record) for record in records)
        with self._path.open("ab") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        self._take(payload)

    def lost(self, mark: Mark | None) -> str | None:
        """Says in words that the file no longer begins with the bytes of ``mark``; ``None`` where it does."""
        if mark is None or not mark.position:
            return None
        if not self._path.is_file():
            return f"{self._path.name} is missing"
        there = self._bytes(mark)
        if len(there) < mark.position:
            return f"{self._path.name} has lost lines: {len(there)} of {mark.position} bytes are there"
        if xxhash.xxh3_64_hexdigest(there) != mark.checksum:
            return f"{self._path.name} was changed within its first {mark.position} bytes"
        return None

    def rewind(self, mark: Mark | None) -> list[_Record]:
        """Drops the bytes after ``mark``, all of them when it is ``None``, and returns the records that stay.

        Raises:
            RunFolderError: for a line that this version cannot read.
        """
        kept = self._bytes(mark)
        if self._path.exists():
            write_atomic(self._path, kept)
        self._length_bytes, self._digest = 0, xxhash.xxh3_64()
        self._take(kept)
        return [self._parse(line) for line in kept.splitlines()]

    def read(self) -> list[_Record]:
        """Every whole line of the file; none where there is no file.

        Raises:
            RunFolderError: for a line that this version cannot read.
        """
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        return [self._parse(line) for line in lines]

    def _bytes(self, mark: Mark | None) -> bytes:
        return self._path.read_bytes()[: mark.position] if mark is not None and self._path.exists() else b""

    def _take(self, payload: bytes) -> None:
        self._length_bytes += len(payload)
        self._digest.update(payload)

    def _parse(self, line: bytes) -> _Record:
        try:
            return self._kind.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            problem = f"{self._path}: {line[:80]!r} cannot be read ({error})"
            raise RunFolderError(f"{problem}; go on with the version of fedfit that wrote it, or start a new run") from error


def _line(record: RoundRecord | DeviceRecord | DeviceScore) -> bytes:
    """JSON has no NaN and no infinity: what is not finite was not measured."""
    return json.dumps(_finite(record.to_json()), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
