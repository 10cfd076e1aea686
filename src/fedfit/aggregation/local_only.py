"""No federation: every device trains alone, on its own samples, and no tensor travels. The floor of every comparison.

Orders and replies are packets all the same, of some hundred bytes of framing, which are counted as every packet is.

What is measured is the mean over the devices, each with its own model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.hetlora import truncated
from fedfit.records import PARTS, AdapterSize, Factors, Memory, Task, Update


class LocalOnly(FedAvg):
    """Each device goes on from its own last round. The first begins with the first rows of the initial A, at its rank."""

    mixed_ranks = True
    fixed_rank = True  # devices hold factors of their rank
    keeps_pair = False
    home = PARTS

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        """What a device without memory starts from; of it the rank alone is sent, and the scale."""
        start = {name: replace(truncated(pair, size.rank, name), scale=size.scale) for name, pair in state.factors.items()}
        return Update(start, state.head, metrics={"rank": size.rank})

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """The device's own factors and head; the initial ones, cut to its rank, the first time."""
        own = dict(memory.tensors) if memory is not None else {}
        rank = int(received.metrics.get("rank", 0))
        factors = {}
        for name, pair in received.factors.items():
            first = truncated(pair, rank or len(pair.a), name)
            scale = memory.numbers["scale"] if memory is not None else pair.scale
            factors[name] = Factors(own.get(f"{name} A", first.a), own.get(f"{name} B", first.b), scale)
        return Task(Update(factors, {name: own.get(f"head {name}", tensor) for name, tensor in received.head.items()}))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """Nothing is sent, all is kept."""
        scale = next(pair.scale for pair in trained.factors.values())
        return trained, Memory(named_tensors(trained), {"scale": scale})

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        """The server learns nothing."""
        for update in updates:
            del update
        return state
