"""The server's state after each round, from which a killed run goes on.

A checkpoint is the last thing written for a round: once its name is there, the round is done; until then the round never
happened. The newest two are kept, the older of them in case the newest is damaged on disk.

A file is a line with the checksum of all that follows; a line of JSON, the head; and the state's tensors.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedfit.atomic import write_atomic
from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Packet
from fedfit.core.update import ServerState
from fedfit.errors import UpdateRefused
from fedfit.records import RoundRecord, RoundResult
from fedfit.tracking.needs import Needs

log = logging.getLogger(__name__)

_KEPT = 2
_NAME = re.compile(r"round-(\d+)\.checkpoint")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError, UpdateRefused)


@dataclass(frozen=True)
class Checkpoint(RoundResult):
    """A round's result as it was read back, without its device lines, and what a run needs to go on from it."""

    needs: Needs = field(default_factory=Needs)


class Checkpoints:
    """Checkpoints in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._codec = PlainCodec()

    def save(self, result: RoundResult, needs: Needs | None = None) -> None:
        """Writes ``result`` with its ``needs``, and removes all but the newest."""
        self._folder.mkdir(exist_ok=True)
        head, state = self._encode(result.state)
        head |= {"record": result.record.to_json(), "needs": (needs or Needs()).to_json()}
        body = json.dumps(head).encode() + b"\n" + state
        path = self._folder / f"round-{result.record.round:06d}.checkpoint"
        write_atomic(path, xxhash.xxh3_64_hexdigest(body).encode() + b"\n" + body)
        for _, path in self._found()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or ``None``."""
        for _, path in reversed(self._found()):
            try:
                return self._read(path)
            except _DAMAGE as error:
                log.warning("%s is damaged (%s); trying the one before", path.name, error)
        return None

    def remove_after(self, last_round: int) -> None:
        """Removes the checkpoints of later rounds: a run that goes back past them drops what they need."""
        for number, path in self._found():
            if number > last_round:
                path.unlink()

    def _read(self, path: Path) -> Checkpoint:
        checksum, _, body = path.read_bytes().partition(b"\n")
        if checksum != xxhash.xxh3_64_hexdigest(body).encode():
            raise ValueError("its checksum does not fit")
        line, _, state = body.partition(b"\n")
        head = json.loads(line)
        record, needs = RoundRecord.from_json(head["record"]), Needs.from_json(head["needs"])
        return Checkpoint(record, (), self._decode(head, state), needs=needs)

    def _encode(self, state: ServerState) -> tuple[dict[str, Any], bytes]:
        """A rule's state as entries of the head, and as bytes."""
        packet, _ = self._codec.encode(state.adapter)
        head = {"adapter_bytes": packet.size_bytes, "numbers": dict(state.numbers)}
        return head, packet.payload + (save(dict(state.tensors)) if state.tensors else b"")

    def _decode(self, head: dict[str, Any], state: bytes) -> ServerState:
        """The inverse of ``_encode``."""
        size = head["adapter_bytes"]
        tensors = load(state[size:]) if len(state) > size else {}
        return ServerState(self._codec.decode(Packet(state[:size])), tensors, head["numbers"])

    def _found(self) -> list[tuple[int, Path]]:
        matches = [(_NAME.fullmatch(path.name), path) for path in self._folder.glob("*")]
        return sorted((int(match[1]), path) for match, path in matches if match)
