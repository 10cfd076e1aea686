"""A round's updates for the rules whose formula needs all factors at once: heads are summed as they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fedfit.records import Factors, Update


@dataclass(frozen=True)
class Gathered:
    """``pairs`` by module, each device's share p_i and its factors; the weighted mean of the ``head``; whose they are."""

    pairs: dict[str, list[tuple[float, Factors]]]
    head: dict[str, Tensor]
    devices: list[int]


def gather(updates: Iterable[Update], like: Update) -> Gathered | None:
    """All of ``updates``, of the modules and the head of ``like``; ``None`` when there are none.

    Memory: ``Σr_i·(d + k)`` numbers a module, and one head.
    """
    total, devices = 0.0, list[int]()
    sums = {name: tensor.double().zero_() for name, tensor in like.head.items()}
    received: dict[str, list[tuple[float, Factors]]] = {name: [] for name in like.factors}
    for update in updates:
        total += update.weight
        devices += [update.origin.device] if update.origin is not None else []
        _add_head(sums, update)
        for name, pairs in received.items():
            pairs.append((update.weight, update.factors[name]))
        del update  # its head, before the next is made
    if total == 0.0:
        return None
    shares = {name: [(weight / total, pair) for weight, pair in pairs] for name, pairs in received.items()}
    return Gathered(shares, {name: (tensor / total).to(like.head[name].dtype) for name, tensor in sums.items()}, devices)


def _add_head(sums: dict[str, Tensor], update: Update) -> None:
    for name, tensor in update.head.items():
        sums[name].add_(tensor.double(), alpha=update.weight)
