"""The device's side of a round: read the order, train, answer, remember."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.data.tokenize import Samples
from fedfit.errors import UpdateRefused
from fedfit.records import Memory, Order, Reply, Update
from fedfit.rounds.client import Client


class Memories(Protocol):
    """Where devices keep what they remember, by round: a run that is taken up again finds what was there then."""

    def read(self, device: int, before_round: int) -> Memory | None:
        """What ``device`` kept in its last round before ``before_round``; ``None`` where it kept nothing yet."""

    def write(self, device: int, round_number: int, memory: Memory) -> None:
        """Keeps ``memory`` as of ``round_number``."""


class Worker:
    """Answers orders for any device, with what that device holds: its samples, and its memory.

    ``initial`` is the adapter that each device draws itself from the recipe's seed: a rule need not send it what is in there.
    """

    def __init__(self, rule: Rule, client: Client, codec: Codec, memories: Memories, initial: Update | None) -> None:
        self._rule, self._client, self._codec = rule, client, codec
        self._memories, self._initial = memories, initial

    def answer(self, order: Order, samples: Samples, indices: np.ndarray) -> Reply:
        """One device's round over ``samples[indices]``. Where it cannot answer, it remembers nothing of the round.

        What it kept of an answer stays where the server then refuses that: the device is not told.
        """
        started = time.perf_counter()
        packet, refusal = None, None
        try:
            memory = self._memories.read(order.device, order.round)
            task = self._rule.receive(self._codec.decode(order.packet, self._initial), memory)
            trained = self._client.train(task, samples, indices, order.round, order.device, order.parts)
            update, kept = self._rule.send(task, trained, memory)
            if kept is not None:
                _check_finite(kept)
            packet = self._codec.encode(update, order.parts & self._rule.sends(order.round))
            if kept is not None:
                self._memories.write(order.device, order.round, kept)
        except UpdateRefused as error:
            refusal = str(error)
        return Reply(order.round, order.device, packet, refusal, time.perf_counter() - started)


def _check_finite(memory: Memory) -> None:
    """Nobody else sees what is kept, and a device whose numbers are not finite would never get out of it."""
    for name, tensor in memory.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UpdateRefused(f"{name} is not finite; a lower training.learning_rate may help")
