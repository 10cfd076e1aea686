"""What devices keep between their rounds, on disk: one file a device and round, in a folder a device.

Memory does not grow with the number of devices. A file is named by its round, so that a run that goes on from a checkpoint
finds what a device kept up to then, and what it kept in rounds that never counted is overwritten.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from fedfit.atomic import write_atomic
from fedfit.records import Memory

_NAME = re.compile(r"round-(\d+)\.safetensors")
_BACK = 2  # rounds that a run may go back: checkpoints are kept of the newest two


class DeviceMemories:
    """Memories below ``folder``; in a temporary folder, gone with this object, when it is ``None``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder

    @cached_property
    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        temporary = Path(tempfile.mkdtemp(prefix="fedfit-"))
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        return temporary

    def read(self, device: int, before_round: int) -> Memory | None:
        """What ``device`` kept in its last round before ``before_round``; ``None`` where it kept nothing yet."""
        last = self.last_round(device, before_round)
        if last is None:
            return None
        with safe_open(self._path(device, last), framework="pt") as file:
            return Memory({name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["numbers"]))  # noqa: SIM118

    def last_round(self, device: int, before_round: int) -> int | None:
        """The last round before ``before_round`` in which ``device`` kept something."""
        return max((number for number in self._rounds(device) if number < before_round), default=None)

    def write(self, device: int, round_number: int, memory: Memory) -> None:
        """Keeps ``memory`` as of ``round_number``; forgets what no run can go back to."""
        path = self._path(device, round_number)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in memory.tensors.items()}
        write_atomic(path, save(tensors, metadata={"numbers": json.dumps(dict(memory.numbers))}))
        old = sorted(number for number in self._rounds(device) if number <= round_number - _BACK)
        for number in old[:-1]:  # the newest of them is what a run that goes back finds
            self._path(device, number).unlink(missing_ok=True)

    def _path(self, device: int, round_number: int) -> Path:
        return self._folder / f"device-{device:06d}" / f"round-{round_number:06d}.safetensors"

    def _rounds(self, device: int) -> list[int]:
        matches = [_NAME.fullmatch(path.name) for path in self._path(device, 0).parent.glob("*")]
        return [int(match[1]) for match in matches if match]
