"""The contract of the devices' memories."""

from __future__ import annotations

from collections.abc import Mapping
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


_OWN = "personal "
"""Before the names of what a personalisation method keeps, beside what the rule keeps."""

T = TypeVar("T")


def parted(memory: Memory | None) -> tuple[Memory | None, Memory | None]:
    """What the rule kept, and what the method kept; ``None`` for nothing."""
    if memory is None:
        return None, None
    found = []
    for own in (False, True):
        tensors, numbers = _named(memory.tensors, own=own), _named(memory.numbers, own=own)
        found.append(Memory(tensors, numbers) if tensors or numbers else None)
    return found[0], found[1]


def joined(rule: Memory | None, own: Memory | None) -> Memory | None:
    """The inverse of ``parted``."""
    if own is None:
        return rule
    tensors, numbers = dict(rule.tensors if rule else {}), dict(rule.numbers if rule else {})
    tensors |= {_OWN + name: tensor for name, tensor in own.tensors.items()}
    numbers |= {_OWN + name: number for name, number in own.numbers.items()}
    return Memory(tensors, numbers)


def _named(values: Mapping[str, T], *, own: bool) -> dict[str, T]:
    return {name.removeprefix(_OWN): value for name, value in values.items() if name.startswith(_OWN) == own}
