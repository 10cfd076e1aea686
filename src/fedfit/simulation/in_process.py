"""The link of a simulation: a call to the one resident client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fedfit.codecs.base import Codec
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.records import Order, Reply, Update
from fedfit.rounds.client import Client


class InProcessLink:
    """Every device lives in this process, one after another; packets are encoded and decoded as over the air.

    ``initial`` is the adapter that each device draws itself from the recipe's seed: a rule need not send it what is in there.
    """

    def __init__(
        self, client: Client, codec: Codec, samples: Samples, parts: Sequence[np.ndarray], initial: Update | None = None
    ) -> None:
        self._client, self._codec, self._samples, self._parts = client, codec, samples, parts
        self._initial = initial

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        """Trains each order's device when its reply is asked for."""
        return map(self._reply, orders)

    def _reply(self, order: Order) -> Reply:
        started = time.perf_counter()
        packet, refusal = None, None
        try:
            received = self._codec.decode(order.packet, self._initial)
            indices = self._parts[order.device]
            update = self._client.train(received, self._samples, indices, order.round, order.device, order.parts)
            packet = self._codec.encode(update, order.parts)
        except UpdateRefused as error:
            refusal = str(error)
        return Reply(order.round, order.device, packet, refusal, time.perf_counter() - started)
