"""What a tracker's sink does, and what it writes: the same numbers as ``rounds.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedfit.atomic import write_atomic
from fedfit.records import RoundRecord


class Sink(Protocol):
    """A tracker that is written to beside the run's own files. A round that it has already is left out."""

    def write(self, record: RoundRecord) -> None:
        """Adds the numbers of one round."""

    def close(self) -> None:
        """Ends what is open; a later process may go on from there."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a sink is opened for. ``parameters`` are the recipe's values by key."""

    folder: Path
    name: str
    parameters: Mapping[str, Any]


def numbers(record: RoundRecord) -> dict[str, float]:
    """Every number of a round by its name; what was not measured or is not finite is left out."""
    values = {name: value for name, value in record.to_json().items() if name != "round" and type(value) in (int, float)}
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


class Place:
    """Where a tracker goes on: its own name for the run, and the last round that it has, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "fedfit.json"
        self.run_id, self.last_round = self._load()

    def note(self, run_id: str, last_round: int) -> None:
        """Remembers that the tracker's run ``run_id`` has the rounds up to ``last_round``."""
        self.run_id, self.last_round = run_id, last_round
        self._path.parent.mkdir(exist_ok=True)
        write_atomic(self._path, json.dumps({"run_id": run_id, "last_round": last_round}).encode())

    def _load(self) -> tuple[str | None, int]:
        """Without a file that can be read, the tracker gets a run of its own, with all rounds."""
        try:
            found = json.loads(self._path.read_bytes())
            return str(found["run_id"]), int(found["last_round"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None, -1
