"""The weighted mean of a stream of updates, in float64, with one update in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfit.core.update import LORA_A, LORA_B, PAIRS, Factors, ServerState, Update, named_tensors, with_tensors

Rows = Mapping[str, slice | Tensor]
"""The rows of the global pair that an update's pair holds, by module."""


class WeightedSum:
    """Running sums of the tensors of ``like``, by name; what else an update holds is not looked at.

    The order of the updates changes less than float32 can hold, unless large terms cancel.
    """

    def __init__(self, like: Update) -> None:
        self._like = like
        self._tensors = named_tensors(like)
        self.clear()

    def clear(self) -> None:
        """Forgets all updates."""
        self.total = 0.0
        self._sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in self._tensors.items()}
        self._held: dict[str, Tensor] = {}

    def add(self, update: Update, weight: float, rows: Rows | None = None) -> None:
        """Adds ``weight`` times ``update``; with ``rows``, each pair at its rows of the global pair."""
        self.total += weight
        tensors = named_tensors(update)
        for name, total in self._sums.items():
            group, _, module = name.partition(".")
            if rows is None or group not in PAIRS:
                total.add_(tensors[name].double(), alpha=weight)
            else:
                _add_at(total, 0 if group == LORA_A else 1, rows[module], tensors[name], weight)
        for module, chosen in (rows or {}).items():
            held = self._held.setdefault(module, torch.zeros(len(self._tensors[f"{LORA_A}.{module}"]), dtype=torch.float64))
            held[chosen] += weight

    def keep_unheld(self) -> None:
        """Counts rows that a device did not hold as the rows of ``like``."""
        for module, held in self._held.items():
            rest = self.total - held  # the weight of those that did not hold a row; 0 to the bit where all did
            a, b = f"{LORA_A}.{module}", f"{LORA_B}.{module}"
            self._sums[a].add_(self._tensors[a].double() * rest[:, None])
            self._sums[b].add_(self._tensors[b].double() * rest)

    def mean(self) -> Update | None:
        """The sums over the total weight, in the types of ``like``; ``None`` without an update. To be asked for once."""
        if self.total == 0.0:
            return None
        means = {name: total.div_(self.total).to(self._tensors[name].dtype) for name, total in self._sums.items()}
        return with_tensors(self._like, means)


def weighted_mean(
    updates: Iterable[Update],
    like: Update,
    *,
    weight: Callable[[Update], float] = lambda update: update.weight,
    rows: Callable[[Update], Rows] | None = None,
    keep_unheld: bool = False,
) -> Update | None:
    """``Σ w_i x_i / Σ w_i`` of the groups of ``like``, or ``None`` when there is no update.

    Args:
        weight: w_i of an update; its number of samples unless the recipe or the rule says otherwise.
        rows: where the pairs of an update stand in the global ones; everywhere when ``None``.
        keep_unheld: rows that a device did not hold count as those of ``like``; else as zero.
    """
    sums = WeightedSum(like)
    for update in updates:
        sums.add(update, weight(update), rows(update) if rows is not None else None)
        del update  # before the next is made: one update in memory
    if keep_unheld:
        sums.keep_unheld()
    return sums.mean()


def average(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The state with the weighted mean of ``updates`` as its adapter: FedAvg's server."""
    mean = weighted_mean(updates, state.adapter)
    return state if mean is None else ServerState(mean, state.tensors, state.numbers)


@dataclass(frozen=True)
class Gathered:
    """A round's updates for a formula that needs all pairs at once.

    Args:
        pairs: by module, each device's share p_i and its factors.
        rest: the weighted mean of all other groups.
        devices: the devices that the updates are from.
    """

    pairs: dict[str, list[tuple[float, Factors]]]
    rest: Update
    devices: list[int]


def gather(updates: Iterable[Update], like: Update) -> Gathered | None:
    """All pairs of ``updates``, and the mean of the other groups of ``like``; ``None`` without an update.

    Memory: ``Σr_i·(d + k)`` numbers a module, and one of each other tensor.
    """
    sums, devices = WeightedSum(like.without(PAIRS)), list[int]()
    received: dict[str, list[tuple[float, Factors]]] = {name: [] for name in like.factors}
    for update in updates:
        devices += [update.origin.device] if update.origin is not None else []
        sums.add(update, update.weight)
        for name, pairs in received.items():
            pairs.append((update.weight, update.factors[name]))
        del update  # its other tensors, before the next is made
    total, rest = sums.total, sums.mean()
    if rest is None:
        return None
    shares = {name: [(weight / total, pair) for weight, pair in pairs] for name, pairs in received.items()}
    return Gathered(shares, rest, devices)


def _add_at(total: Tensor, dim: int, rows: slice | Tensor, part: Tensor, weight: float) -> None:
    """``total[rows] += weight · part`` along ``dim``, by the same ``add_`` as of whole tensors: equal ranks give equal bits."""
    if isinstance(rows, slice):
        view = total[rows] if dim == 0 else total[:, rows]
        view.add_(part.double(), alpha=weight)
    else:
        total.index_copy_(dim, rows, total.index_select(dim, rows).add_(part.double(), alpha=weight))
