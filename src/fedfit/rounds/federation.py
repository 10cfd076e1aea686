"""What stays the same from round to round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.records import AdapterSize, Score
from fedfit.rounds.clock import Clock
from fedfit.rounds.link import Link


@dataclass(frozen=True)
class Federation:
    """The parts that a round works with.

    ``samples`` is the number of samples by device; ``score`` evaluates a rule's state on the test set. ``size`` is the
    adapter's size at a rank, and ``ranks`` those of the devices where nothing is planned. ``uniform`` lets devices weigh
    alike. ``clock`` plans and charges, if there is one.
    """

    rule: Rule
    codec: Codec
    link: Link
    score: Callable[[Any, int], Score]
    """Of a state, after the round of that number."""
    samples: Sequence[int]
    devices_per_round: int
    seed: int
    size: Callable[[int], AdapterSize]
    ranks: Sequence[int]
    uniform: bool = False
    clock: Clock | None = None
