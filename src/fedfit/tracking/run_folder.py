"""The run folder: what a run leaves behind, and from which it can go on.

recipe.toml  environment.json  partition.json  task.json     written once, before the first round
rounds.jsonl  devices.jsonl  scores.jsonl          a line, or lines, a round; scores where devices have test rows of their own
tensorboard/  mlflow/  wandb/                      the same numbers for trackers, as the recipe asks
checkpoints/                                       the server's state; decides which rounds count
devices/                                           what devices keep themselves, with rules that need it
adapter/                                           PEFT's own format, with a card; labels.json and config.json of a classifier
evaluation.json                                    a closer look at the final model, once the run is finished
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fedfit.atomic import write_atomic
from fedfit.core.run_files import check_is_run
from fedfit.errors import RunFolderError
from fedfit.records import DeviceRecord, DeviceScore, RoundRecord, RoundResult
from fedfit.tracking.adapter_folder import write_adapter
from fedfit.tracking.checkpoint import Checkpoint, Checkpoints
from fedfit.tracking.lines import Lines
from fedfit.tracking.memories import DeviceMemories
from fedfit.tracking.needs import Fingerprint, Needs
from fedfit.tracking.writing import writing

_ROUNDS, _DEVICES, _SCORES = "rounds.jsonl", "devices.jsonl", "scores.jsonl"
TASK, EVALUATION = "task.json", "evaluation.json"
_OURS = (
    "recipe.toml",
    "environment.json",
    "partition.json",
    TASK,
    _ROUNDS,
    _DEVICES,
    _SCORES,
    EVALUATION,
    "report.html",
    "harness.json",
)
_OUR_FOLDERS = ("tensorboard", "mlflow", "wandb", "checkpoints", "adapter", "device-adapters", "figures", "devices")
_LOCK = ".lock"
DEVICES_FOLDER = "devices"
"""The folder of what devices keep, in a run's."""
_SHOWN = 12  # lines of a message; a thousand devices may have lost what they kept


class RunFolder:
    """A run folder held by this process alone: a second process that opens it is refused."""

    def __init__(self, path: Path, memories: DeviceMemories | None = None) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.memories = memories or DeviceMemories(path / DEVICES_FOLDER)
        self._rounds = Lines(path / _ROUNDS, RoundRecord)
        self._devices = Lines(path / _DEVICES, DeviceRecord)
        self._scores = Lines(path / _SCORES, DeviceScore)
        self._lock: BinaryIO | None = None

    @classmethod
    def create(cls, path: Path, *, force: bool = False, memories: DeviceMemories | None = None) -> RunFolder:
        """A new, empty run folder. ``force`` removes the files of an earlier run, and nothing else that lies there.

        Args:
            memories: those of its devices, made before; below ``DEVICES_FOLDER``.

        Raises:
            RunFolderError: when something is there already, is in use, or cannot be written.
        """
        cls.check_free(path, force=force)
        folder = cls(path, memories)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._hold()
            folder._clear()
        except OSError as error:
            folder.close()
            fault = f"{path} cannot be written: {error.strerror or error}; choose another"
            raise RunFolderError(f"{fault} --out", f"{fault} out=…") from error
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
            fault = f"{path} holds files that are not of a run; give another"
            raise RunFolderError(f"{fault} --out", f"{fault} out=…")
        if there and not force:
            fault = f"{path} exists already; give another"
            raise RunFolderError(
                f"{fault} --out, go on with `fedfit resume {path}`, or replace it with --force",
                f'{fault} out=…, go on with fedfit.resume("{path}"), or replace it with force=True',
            )
        parent = next(place for place in (path, *path.resolve().parents) if place.exists())
        if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
            fault = f"{path} cannot be written: {parent} is not a writable folder; choose another"
            raise RunFolderError(f"{fault} --out", f"{fault} out=…")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder, to go on with.

        Raises:
            RunFolderError: when it is none, or another process works on it.
        """
        check_is_run(path, ("recipe.toml", "partition.json"))
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

    def write_object(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes ``value`` as a JSON file of the folder, whole or not at all."""
        with writing(self.path):
            write_atomic(self.path / name, _pretty(value))

    def read_object(self, name: str) -> dict[str, Any]:
        """The object in a JSON file of the folder.

        Raises:
            RunFolderError: when it cannot be read, or holds something else.
        """
        path = self.path / name
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path} cannot be read ({error}); {self._remedy}") from error
        if not isinstance(found, dict):
            raise RunFolderError(f"{path} cannot be read (it holds no JSON object); {self._remedy}")
        return found

    def write(self, result: RoundResult, fingerprint: Fingerprint) -> None:
        """Records a round: its lines first, then the checkpoint that makes them count."""
        with writing(self.path):
            self._devices.append(result.devices)
            if result.scores:
                self._scores.append(result.scores)
            self._rounds.append([result.record])
            records = {_ROUNDS: self._rounds.mark, _DEVICES: self._devices.mark, _SCORES: self._scores.mark}
            self.checkpoints.save(result, Needs(fingerprint, records, self.memories.marks()))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint; ``None`` for a run that was stopped before its first one.

        Raises:
            RunFolderError: when rounds are recorded and no checkpoint can be read.
        """
        found = self.checkpoints.latest()
        rounds = self.path / _ROUNDS
        if found is None and rounds.is_file() and rounds.read_bytes().count(b"\n") > 1:
            raise RunFolderError(f"{rounds} has rounds and no checkpoint of {self.path} can be read; {self._remedy}")
        return found

    def lost(self, needs: Needs) -> list[str]:
        """What is missing or changed of the records and memories that ``needs`` names, in words, a line each."""
        found = [
            self._rounds.lost(needs.records.get(_ROUNDS)),
            self._devices.lost(needs.records.get(_DEVICES)),
            self._scores.lost(needs.records.get(_SCORES)),
        ]
        return [*(words for words in found if words), *self.memories.lost(needs.memories).values()]

    def refuse(self, lost: Sequence[str], remedy: str = "") -> None:
        """Names what a resumed run misses.

        Args:
            remedy: a further one.

        Raises:
            RunFolderError: with all of ``lost``, unless it is empty.
        """
        shown = [*lost[:_SHOWN], *([f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else [])]
        if lost:
            reasons = "".join(f"\n  {words}" for words in shown)
            raise RunFolderError(f"{self.path} cannot go on, since what it needs has changed:{reasons}\n{self._remedy}{remedy}")

    def rewind(self, last: Checkpoint | None) -> tuple[list[RoundRecord], list[DeviceRecord]]:
        """Goes back to ``last``, or to before the first round: drops later lines, whole or torn, and later memories.

        Returns:
            The records that stay.
        """
        needs = last.needs if last else Needs()
        with writing(self.path):
            self.checkpoints.remove_after(last.record.round if last else -1)
            self.memories.rewind(needs.memories)
            self._scores.rewind(needs.records.get(_SCORES))
            devices = self._devices.rewind(needs.records.get(_DEVICES))
            return self._rounds.rewind(needs.records.get(_ROUNDS)), devices

    def goes_on(self) -> None:
        """Drops what was said of the run's end, before a further round."""
        with writing(self.path):
            (self.path / EVALUATION).unlink(missing_ok=True)

    @property
    def _remedy(self) -> str:
        return f"restore it, or start anew: fedfit run {self.path / 'recipe.toml'} --out {self.path} --force"

    def save_adapter(self, save: Callable[[Path], None], labels: tuple[str, ...], card: str = "") -> Path:
        """Writes ``adapter/``; see :func:`fedfit.tracking.adapter_folder.write_adapter`."""
        with writing(self.path):
            return write_adapter(self.path / "adapter", save, labels, card)

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
