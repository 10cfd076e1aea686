"""What a run needs to go on from a round, beside the server's state: fingerprints and checksums, kept in each checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """How far something had been written, and the checksum of it up to there.

    ``position`` is a length in bytes for a file of lines, and a round for a device's memory.
    """

    position: int
    checksum: str


@dataclass(frozen=True)
class Fingerprint:
    """What stays the same in all rounds of a run: the recipe's values by key, and hashes of the data and the weights."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Needs:
    """``records`` holds a mark for each file of lines by its name, ``memories`` one for each device that keeps something."""

    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    records: Mapping[str, Mark] = field(default_factory=dict)
    memories: Mapping[int, Mark] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint's head."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Needs:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        return cls(
            Fingerprint(**plain["fingerprint"]),
            {name: Mark(*mark) for name, mark in plain["records"].items()},
            {int(device): Mark(*mark) for device, mark in plain["memories"].items()},
        )
