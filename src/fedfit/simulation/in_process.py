"""The link of a simulation: a call to the one resident client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fedfit.data.tokenize import Samples
from fedfit.records import Order, Reply
from fedfit.rounds.device import Worker


class InProcessLink:
    """Every device lives in this process, one after another; packets are encoded and decoded as over the air."""

    def __init__(self, worker: Worker, samples: Samples, parts: Sequence[np.ndarray]) -> None:
        self._worker, self._samples, self._parts = worker, samples, parts

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        """Trains each order's device when its reply is asked for."""
        return (self._worker.answer(order, self._samples, self._parts[order.device]) for order in orders)
