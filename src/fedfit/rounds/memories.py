"""The contract of the devices' memories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fedfit.core.update import Memory


class Memories(Protocol):
    """Where devices keep their memories, by round: a resumed run finds those of the round that it goes on from."""

    def read(self, device: int, before_round: int) -> Memory | None:
        """The memory of ``device`` from its last round before ``before_round``; ``None`` before its first."""

    def write(self, device: int, round_number: int, memory: Memory) -> None:
        """Keeps ``memory`` as of ``round_number``."""

    def last_round(self, device: int, before_round: int) -> int | None:
        """The last round before ``before_round`` in which ``device`` kept something; ``None`` before its first."""


_PREFIXES = ("", "personal ", "codec ")
"""Before the names of what the rule keeps, a method of personalisation, and the uplink's codec."""

T = TypeVar("T")


@dataclass(frozen=True)
class Kept:
    """The parts of a device's memory; ``None`` for nothing.

    Args:
        rule: what the rule keeps.
        own: what a method of personalisation keeps.
        codec: what the uplink's codec keeps.
    """

    rule: Memory | None = None
    own: Memory | None = None
    codec: Memory | None = None


def parted(memory: Memory | None) -> Kept:
    """The parts of ``memory``."""
    return Kept(*(_part(memory, prefix) for prefix in _PREFIXES))


def joined(kept: Kept) -> Memory | None:
    """The inverse of ``parted``."""
    parts = [(prefix, part) for prefix, part in zip(_PREFIXES, (kept.rule, kept.own, kept.codec), strict=True) if part]
    if not parts:
        return None
    return Memory(
        {prefix + name: tensor for prefix, part in parts for name, tensor in part.tensors.items()},
        {prefix + name: number for prefix, part in parts for name, number in part.numbers.items()},
    )


def _part(memory: Memory | None, prefix: str) -> Memory | None:
    if memory is None:
        return None
    tensors, numbers = _named(memory.tensors, prefix), _named(memory.numbers, prefix)
    return Memory(tensors, numbers) if tensors or numbers else None


def _named(values: Mapping[str, T], prefix: str) -> dict[str, T]:
    others = tuple(other for other in _PREFIXES if other != prefix and other)
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix) and not (not prefix and name.startswith(others))
    }
