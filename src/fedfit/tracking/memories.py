"""What devices keep between their rounds, on disk: one file a device and round, in a folder a device.

The use of memory does not grow with the number of devices. A file is named by its round, so that a run that goes on from a
checkpoint finds what a device kept up to then. Each file carries the checksum of its content, made when it is written; the
newest of each device are also in the checkpoints, so that a run that goes on misses none.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedfit.atomic import write_atomic
from fedfit.core.update import Memory
from fedfit.errors import RunFolderError
from fedfit.tracking.needs import Mark

_NAME = re.compile(r"round-(\d+)\.safetensors")
_FOLDER = re.compile(r"device-(\d+)")
_BACK = 2  # rounds that a run may go back: checkpoints are kept of the newest two
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)


def device_folder(device: int) -> str:
    """The name of the folder of ``device``."""
    return f"device-{device:06d}"


class DeviceMemories:
    """Memories below ``folder``; in a temporary folder, gone with this object, when it is ``None``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder
        self._checksums: dict[int, dict[int, str]] = {}  # by device and round

    @cached_property
    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        temporary = Path(tempfile.mkdtemp(prefix="fedfit-"))
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        return temporary

    def read(self, device: int, before_round: int) -> Memory | None:
        """What ``device`` kept in its last round before ``before_round``; ``None`` where it kept nothing yet.

        Raises:
            RunFolderError: when the file is missing, or is not what was written.
        """
        last = self.last_round(device, before_round)
        if last is None:
            return None
        try:
            return _read(self._path(device, last), self._checksums.get(device, {}).get(last))
        except _DAMAGE as error:
            raise RunFolderError(f"{self._path(device, last)} {_reason(error)}; restore it, or start the run anew") from error

    def last_round(self, device: int, before_round: int) -> int | None:
        """The last round before ``before_round`` in which ``device`` kept something."""
        rounds = {*self._rounds(device), *self._checksums.get(device, {})}
        return max((number for number in rounds if number < before_round), default=None)

    def write(self, device: int, round_number: int, memory: Memory) -> None:
        """Keeps ``memory`` as of ``round_number``; removes what no run can go back to."""
        path = self._path(device, round_number)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in memory.tensors.items()}
        numbers = json.dumps(dict(memory.numbers))
        checksum = _checksum(tensors, numbers)
        write_atomic(path, save(tensors, metadata={"numbers": numbers, "checksum": checksum}))
        self._checksums.setdefault(device, {})[round_number] = checksum
        old = sorted(number for number in self._rounds(device) if number <= round_number - _BACK)
        for number in old[:-1]:  # a run that goes back needs the newest of them
            self._remove(device, number)

    def marks(self) -> dict[int, Mark]:
        """The newest round of each device that keeps something, with its checksum. Reads no file."""
        return {device: Mark(max(rounds), rounds[max(rounds)]) for device, rounds in self._checksums.items() if rounds}

    def lost(self, marks: Mapping[int, Mark]) -> dict[int, str]:
        """Says in words, by device, which memories of ``marks`` are missing or changed. Reads them all."""
        found = {}
        for device, mark in marks.items():
            path = self._path(device, mark.position)
            try:
                _read(path, mark.checksum)
            except _DAMAGE as error:
                found[device] = f"{path.parent.parent.name}/{path.parent.name}/{path.name} {_reason(error)}"
        return found

    def rewind(self, marks: Mapping[int, Mark]) -> None:
        """Goes back to when ``marks`` were taken: memories of later rounds are removed."""
        matches = [_FOLDER.fullmatch(folder.name) for folder in self._folder.glob("*")]
        for device in [int(match[1]) for match in matches if match]:
            last = marks[device].position if device in marks else -1
            for number in [number for number in self._rounds(device) if number > last]:
                self._remove(device, number)
        self._checksums = {device: {mark.position: mark.checksum} for device, mark in marks.items()}

    def _path(self, device: int, round_number: int) -> Path:
        return self._folder / device_folder(device) / f"round-{round_number:06d}.safetensors"

    def _rounds(self, device: int) -> list[int]:
        matches = [_NAME.fullmatch(path.name) for path in self._path(device, 0).parent.glob("*")]
        return [int(match[1]) for match in matches if match]

    def _remove(self, device: int, round_number: int) -> None:
        self._path(device, round_number).unlink(missing_ok=True)
        self._checksums.get(device, {}).pop(round_number, None)


def _read(path: Path, expected: str | None) -> Memory:
    """The memory in the file at ``path``, held to the checksum in the file and to the ``expected`` one, if known.

    Raises:
        ValueError: and others of ``_DAMAGE``, when it is not what was written.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle, not a mapping
        numbers, checksum = (file.metadata()[key] for key in ("numbers", "checksum"))
    if checksum != _checksum(tensors, numbers):
        raise ValueError("its checksum does not fit")
    if expected not in (None, checksum):
        raise ValueError("it is a memory of another run")
    return Memory(tensors, json.loads(numbers))


def _checksum(tensors: Mapping[str, torch.Tensor], numbers: str) -> str:
    """16 hex digits over every name, type, shape and bit."""
    digest = xxhash.xxh3_64(numbers.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
