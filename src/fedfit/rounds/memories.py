"""The contract of the devices' memories."""

from __future__ import annotations

from typing import Protocol

from fedfit.core.update import Memory


class Memories(Protocol):
    """Where devices keep their memories, by round: a resumed run finds those of the round that it goes on from."""

    def read(self, device: int, before_round: int) -> Memory | None:
        """The memory of ``device`` from its last round before ``before_round``; ``None`` before its first."""

    def write(self, device: int, round_number: int, memory: Memory) -> None:
        """Keeps ``memory`` as of ``round_number``."""

    def last_round(self, device: int, before_round: int) -> int | None:
        """The last round before ``before_round`` in which ``device`` kept something; ``None`` before its first."""
