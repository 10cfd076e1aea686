"""The run folder: what a run leaves behind, and from which it can go on.

recipe.toml  environment.json  partition.json     written once, before the first round
rounds.jsonl  devices.jsonl  tensorboard/         a line, or lines, a round
checkpoints/                                       the server's state; decides which rounds count
devices/                                           what devices keep themselves, with rules that need it
adapter/                                           PEFT's own format, with labels.json beside it
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fedfit.atomic import write_atomic
from fedfit.errors import RunFolderError
from fedfit.records import DeviceRecord, RoundRecord, RoundResult
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.writing import writing

_OURS = ("recipe.toml", "environment.json", "partition.json", "rounds.jsonl", "devices.jsonl", "report.html")
_OUR_FOLDERS = ("tensorboard", "checkpoints", "adapter", "figures", "devices")
_LOCK = ".lock"

_Record = TypeVar("_Record", RoundRecord, DeviceRecord)


class RunFolder:
    """A run folder held by this process alone: a second process that opens it is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._lock: BinaryIO | None = None

    @classmethod
    def create(cls, path: Path, *, force: bool = False) -> RunFolder:
        """A new, empty run folder. ``force`` removes the files of an earlier run, and nothing else that lies there.

        Raises:
            RunFolderError: when something is there already, is in use, or cannot be written.
        """
        cls.check_free(path, force=force)
        folder = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._hold()
            folder._clear()
        except OSError as error:
            folder.close()
            raise RunFolderError(f"{path} cannot be written: {error.strerror or error}; choose another --out") from error
        return folder

    @staticmethod
    def check_free(path: Path, *, force: bool = False) -> None:
        """Sees early, before anything is computed, whether ``create`` would refuse.

        Raises:
            RunFolderError: when something is in the way, or nothing can be written there.
        """
        there = {item.name for item in path.iterdir()} if path.is_dir() else set()
        if there and not there & {_LOCK, "recipe.toml"}:
            # Also with --force: figures/ or adapter/ in a folder that no run has made are somebody's own.
            raise RunFolderError(f"{path} holds files that are not of a run; give another --out")
        if there and not force:
            raise RunFolderError(
                f"{path} exists already; give another --out, go on with `fedfit resume {path}`, or replace it with --force"
            )
        parent = next(place for place in (path, *path.resolve().parents) if place.exists())
        if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
            raise RunFolderError(f"{path} cannot be written: {parent} is not a writable folder; choose another --out")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, to go on with.

        Raises:
            RunFolderError: when it is none, or another process works on it.
        """
        if not (path / "recipe.toml").is_file() or not (path / "partition.json").is_file():
            raise RunFolderError(f"{path} is not a run that can be resumed (recipe.toml or partition.json is missing)")
        folder = cls(path)
        try:
            folder._hold()
            folder._sweep()
        except OSError as error:
            folder.close()
            raise RunFolderError(f"{path} cannot be written: {error.strerror or error}; make it writable") from error
        return folder

    def describe(self, recipe: str, environment: Mapping[str, Any], partition: Mapping[str, Any]) -> None:
        """Writes what is known before the first round; the recipe last, since it makes the folder resumable."""
        with writing(self.path, resumable=False):
            write_atomic(self.path / "environment.json", _pretty(environment))
            write_atomic(self.path / "partition.json", _pretty(partition))
            write_atomic(self.path / "recipe.toml", recipe.encode())

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder.

        Raises:
            RunFolderError: when it cannot be read.
        """
        try:
            return json.loads((self.path / name).read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path / name} cannot be read: {error}") from error

    def write(self, result: RoundResult) -> None:
        """Records a round: its lines first, then the checkpoint that makes them count."""
        with writing(self.path):
            _append(self.path / "devices.jsonl", result.devices)
            _append(self.path / "rounds.jsonl", [result.record])
            self.checkpoints.save(result)

    def rewind(self, last_round: int) -> tuple[list[RoundRecord], list[DeviceRecord]]:
        """Drops lines of rounds after ``last_round``, whole or torn; returns the lines that stay.

        Raises:
            RunFolderError: for a line that is whole and yet none of ours.
        """
        with writing(self.path):
            devices = self._rewind("devices.jsonl", DeviceRecord, last_round)
            return self._rewind("rounds.jsonl", RoundRecord, last_round), devices

    def _rewind(self, name: str, kind: type[_Record], last_round: int) -> list[_Record]:
        path = self.path / name
        kept = [line for line in _whole_lines(path, kind) if line.round <= last_round]
        write_atomic(path, b"".join(_line(line) for line in kept))
        return kept

    def save_adapter(self, save: Callable[[Path], None], labels: tuple[str, ...]) -> Path:
        """Writes ``adapter/`` through ``save`` under another name, then puts it in place."""
        target, beside = self.path / "adapter", self.path / ".adapter.part"
        with writing(self.path):
            shutil.rmtree(beside, ignore_errors=True)
            save(beside)
            (beside / "labels.json").write_bytes(_pretty(list(labels)))
            shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
        return target

    def close(self) -> None:
        """Lets go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _hold(self) -> None:
        self._lock = (self.path / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise RunFolderError(f"{self.path} is in use by another process; wait for it or stop it first") from error

    def _sweep(self) -> None:
        """Removes what a killed process was just writing."""
        for left in (*self.path.glob(".*.part"), *self.path.glob("checkpoints/.*.part"), *self.path.glob("devices/*/.*.part")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _clear(self) -> None:
        """Removes an earlier run."""
        self._sweep()
        for name in _OURS:
            (self.path / name).unlink(missing_ok=True)
        for name in _OUR_FOLDERS:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def _line(record: RoundRecord | DeviceRecord) -> bytes:
    """JSON has no NaN and no infinity: what is not finite was not measured."""
    return json.dumps(_finite(record.to_json()), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path, records: Sequence[RoundRecord | DeviceRecord]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(_line(record) for record in records))
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path, kind: type[_Record]) -> list[_Record]:
    if not path.exists():
        return []
    lines = []
    for raw in path.read_bytes().split(b"\n")[:-1]:  # what follows the last newline was never finished
        try:
            lines.append(kind.from_json(json.loads(raw)))
        except (ValueError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged: {raw[:80]!r} is not a line of it; restore it") from error
    return lines
