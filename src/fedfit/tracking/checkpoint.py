"""The server's state after each round, from which a killed run goes on.

A checkpoint is the last thing written for a round: once its name is there, the round is done; until then the round never
happened. The newest two are kept, the older of them in case the newest is damaged on disk.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import xxhash
from safetensors.torch import load, save

from fedfit.atomic import write_atomic
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import UpdateRefused
from fedfit.records import Packet, RoundRecord, RoundResult, ServerState

log = logging.getLogger(__name__)

_KEPT = 2
_NAME = re.compile(r"round-(\d+)\.checkpoint")


class Checkpoints:
    """Checkpoints in ``folder``; one JSON line at the file's head has the round's record and the state's checksum."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._codec = SafetensorsCodec()

    def save(self, result: RoundResult) -> None:
        """Writes ``result`` and forgets all but the newest."""
        self._folder.mkdir(exist_ok=True)
        kept = result.state if isinstance(result.state, ServerState) else ServerState(result.state)
        adapter = self._codec.encode(kept.adapter).payload
        state = adapter + (save(dict(kept.tensors)) if kept.tensors else b"")
        head = {
            "record": result.record.to_json(),
            "checksum": xxhash.xxh3_64_hexdigest(state),
            "adapter_bytes": len(adapter),
            "numbers": dict(kept.numbers),
            "plain": kept is not result.state,
        }
        path = self._folder / f"round-{result.record.round:06d}.checkpoint"
        write_atomic(path, json.dumps(head).encode() + b"\n" + state)
        for _, path in self._found()[:-_KEPT]:
            path.unlink(missing_ok=True)

    def latest(self) -> RoundResult | None:
        """The newest checkpoint that can be read, or ``None``."""
        for _, path in reversed(self._found()):
            try:
                return self._read(path)
            except (OSError, ValueError, KeyError, TypeError, UpdateRefused) as error:
                log.warning("%s is damaged (%s); trying the one before", path.name, error)
        return None

    def _read(self, path: Path) -> RoundResult:
        line, _, state = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        if head["checksum"] != xxhash.xxh3_64_hexdigest(state):
            raise ValueError("its checksum does not fit")
        size = head["adapter_bytes"]
        kept = ServerState(
            self._codec.decode(Packet(state[:size])), load(state[size:]) if len(state) > size else {}, head["numbers"]
        )
        return RoundResult(RoundRecord.from_json(head["record"]), (), kept.adapter if head["plain"] else kept)

    def _found(self) -> list[tuple[int, Path]]:
        matches = [(_NAME.fullmatch(path.name), path) for path in self._folder.glob("*")]
        return sorted((int(match[1]), path) for match, path in matches if match)
