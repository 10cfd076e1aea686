"""Which layers are adapted: ``"last:3"``, ``"first:3"``, ``"middle:3"``, ``"all"``, ``"3-5"`` or ``[3, 4, 5]``."""

from __future__ import annotations

import re
from collections.abc import Sequence


def select_layers(spec: str | Sequence[int], count: int) -> tuple[int, ...]:
    """The adapted layers of an encoder with ``count`` layers, ascending and counted from 0.

    ``middle:k`` leaves as many layers below as above; the odd one goes below. The lowest adapted layer is the cut between
    trunk and tail.

    Raises:
        ValueError: with the remedy, for a spec that names no layer, a layer twice, or one outside ``0 … count - 1``.
    """
    chosen = _from_text(spec, count) if isinstance(spec, str) else list(spec)
    if not chosen:
        raise ValueError("name at least one layer")
    if len(set(chosen)) != len(chosen):
        raise ValueError("name each layer once")
    outside = [layer for layer in chosen if not 0 <= layer < count]
    if outside:
        raise ValueError(f"the model has layers 0 to {count - 1}, so {outside} cannot be adapted")
    return tuple(sorted(chosen))


def _from_text(spec: str, count: int) -> list[int]:
    if spec == "all":
        return list(range(count))
    span = re.fullmatch(r"(\d+)-(\d+)", spec)
    if span:
        return list(range(int(span[1]), int(span[2]) + 1))
    part = re.fullmatch(r"(first|middle|last):(\d+)", spec)
    if not part:
        raise ValueError("write first:k, middle:k, last:k, all, 3-5, or a list of layers such as [3, 4, 5]")
    size = int(part[2])
    if not 1 <= size <= count:
        raise ValueError(f"the model has {count} layers; k must lie between 1 and {count}")
    start = {"first": 0, "middle": (count - size + 1) // 2, "last": count - size}[part[1]]
    return list(range(start, start + size))
