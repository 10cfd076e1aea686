"""The parts that stay the same from round to round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedfit.aggregation.contract import Rule
from fedfit.codecs.contract import Codec
from fedfit.core.task import Score
from fedfit.core.update import AdapterSize, ServerState
from fedfit.records import DeviceScore
from fedfit.rounds.clock import Clock
from fedfit.rounds.link import Link


class Evaluator(Protocol):
    """Measures a federation's models."""

    def evaluate(self, state: ServerState, after_round: int) -> tuple[Score, Sequence[DeviceScore]]:
        """Metrics by their full names (``test_accuracy``) of ``state`` after a round, and those of devices' own models. Empty
        in a round that is not measured."""


@dataclass(frozen=True)
class Federation:
    """The parts that a round works with.

    Args:
        groups: the adapter's groups.
        samples: the number of samples that each device registered, by device.
        size: the adapter's size at a rank.
        ranks: the rank of each device where nothing is planned.
        joins: the first round in which each device can be drawn; all in the first when empty.
        uniform: devices weigh alike.
        clock: plans and charges rounds, if given.
        reply_deadline_s: wall time that a device has for its reply; none when ``None``.
        max_failed_rounds: rounds in a row without one usable update after which the run stops.
    """

    rule: Rule
    groups: frozenset[str]
    uplink: Codec
    downlink: Codec
    link: Link
    evaluator: Evaluator
    samples: Sequence[int]
    devices_per_round: int
    seed: int
    size: Callable[[int], AdapterSize]
    ranks: Sequence[int]
    joins: Sequence[int] = ()
    uniform: bool = False
    clock: Clock | None = None
    reply_deadline_s: float | None = None
    max_failed_rounds: int = 3
