"""The contract of an aggregation rule, and what every rule does to an update before it counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from fedfit.errors import UpdateRefused
from fedfit.records import AdapterSize, Factors, Memory, Task, Update

_MOST_SAMPLES = 2.0**53  # beyond it a weighted sum in float64 could overflow, and no device has as many


class Rule(Protocol):
    """State in, state out; no state of its own. One update is in memory at a time, unless a rule says what it must keep.

    ``receive`` and ``send`` run on the device, all else on the server.

    ``mixed_ranks`` says whether devices may train at different ranks, up to the global one, in one round. For a rule without
    it, a round whose rank differs begins with ``resize``, and all devices are sent that rank.
    """

    mixed_ranks: bool
    fixed_rank: bool
    """Whether the global rank must stay what it was in the first round."""
    uniform: bool
    """Whether devices weigh alike by default, instead of by their samples."""
    keeps_pair: bool
    """Whether the state is the global adapter itself, each coordinate meaning the same from round to round, so that a server
    optimiser can keep moments of it."""
    known: frozenset[str]
    """Parts of what is dispatched that every device can derive itself, from the model's own initial draw."""
    home: frozenset[str]
    """Parts that never leave a device. There is then no one global model: each device has its own."""

    def trains(self, round_number: int) -> frozenset[str]:
        """The parts, of ``a``, ``b`` and ``head``, that devices train in this round."""

    def gets(self, round_number: int) -> frozenset[str]:
        """The parts that travel to devices as they are; the others are ``known``, ``home``, or travel in ``extra``."""

    def sends(self, round_number: int) -> frozenset[str]:
        """The parts that travel back as they are; what else is trained is ``home``, or travels in ``extra``."""

    def room(self, adapter: Update) -> int:
        """The highest rank that is ever loaded into the resident model, from the freshly drawn global adapter."""

    def init(self, adapter: Update) -> Any:
        """The server's state before the first round, from the freshly drawn global adapter."""

    def begin(self, state: Any, round_number: int) -> Any:
        """The state that this round goes on from. It is what stays where the round fails: then the next one begins from
        the same state again, so what changes with the rounds is to be read from their number."""

    def resize(self, state: Any, size: AdapterSize, seed: int) -> Any:
        """The state with the global adapter at another rank; what was learned is kept as far as the rank can hold it."""

    def dispatch(self, state: Any, device: int, size: AdapterSize, seed: int) -> Update:
        """What ``device`` is sent and trains, at ``size``; draws come from ``seed``.

        ``size`` is the global adapter's own, unless the rule is one for ``mixed_ranks``.
        """

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What the device trains from; ``memory`` is what it kept, ``None`` the first time.

        Raises:
            UpdateRefused: when what was sent does not fit what the device remembers.
        """

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What the device sends back, and what it keeps; ``None`` where that is nothing."""

    def expected(self, sent: Update, came: Update) -> Update:
        """The form, names and shapes, that a reply to ``sent`` is held to; ``came`` may choose where there are several."""

    def apply(self, state: Any, updates: Iterable[Update]) -> Any:
        """The state after a round; unchanged when there is no update."""

    def adapter(self, state: Any) -> Update:
        """The global adapter that is evaluated and saved."""

    def base(self, state: Any) -> Mapping[str, torch.Tensor]:
        """What has been merged into the frozen weights, ``(output, input)`` by module."""

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """The most that a packet to a device holds beside the parts of ``adapter`` that it gets."""

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """The most that a packet from a device holds beside the parts of ``adapter`` that it sends."""


def named_tensors(update: Update) -> dict[str, torch.Tensor]:
    """Every tensor of ``update`` by a name that tells factor and head apart; nothing is copied."""
    tensors = {f"{name} A": pair.a for name, pair in update.factors.items()}
    tensors |= {f"{name} B": pair.b for name, pair in update.factors.items()}
    return tensors | {f"head {name}": tensor for name, tensor in update.head.items()}


def with_tensors(like: Update, tensors: Mapping[str, torch.Tensor]) -> Update:
    """The inverse of ``named_tensors``: names and scales of ``like``, weight 1, no metrics."""
    factors = {n: Factors(tensors[f"{n} A"], tensors[f"{n} B"], pair.scale) for n, pair in like.factors.items()}
    return Update(factors, {name: tensors[f"head {name}"] for name in like.head})


def check_finite(update: Update) -> None:
    """Holds every tensor of ``update``, its weight and its metrics, to finite numbers.

    Raises:
        UpdateRefused: naming the first tensor that is not.
    """
    extra = {f"extra {name}": tensor for name, tensor in update.extra.items() if tensor.is_floating_point()}
    for name, tensor in (named_tensors(update) | extra).items():
        if not bool(torch.isfinite(tensor).all()):
            raise UpdateRefused(f"{name} is not finite; a lower training.learning_rate may help")
    if not 0 < update.weight <= _MOST_SAMPLES:
        raise UpdateRefused(f"the weight {update.weight} is not a positive number of samples")
    for name, value in update.metrics.items():
        if not math.isfinite(value):
            raise UpdateRefused(f"the metric {name} is {value}")
