"""FedSA-LoRA: A is shared, B stays on its device.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025, arXiv 2410.01463.

    A = Σ p_i A_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j;   B_i is trained beside A_i and never sent

A travels both ways, with the head: half of the factors' bytes where d = k. There is no one global model. What is measured is
the mean over the devices, each with the shared A and head and its own B_i; a device that has not taken part yet has B_i = 0.
"""

from __future__ import annotations

from dataclasses import replace

from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import AdapterSize, Memory, Task, Update


class FedSaLora(FedAvg):
    """Sample-weighted mean of A and of the head. The server's B is the initial one: a mean of what no device has sent."""

    fixed_rank = True  # devices hold a B of it
    keeps_pair = True
    home = frozenset({"b"})

    def resize(self, state: Update, size: AdapterSize, seed: int) -> Update:
        """The state as it is, at its own size.

        Raises:
            ValueError: for any other size.
        """
        if any(AdapterSize(len(pair.a), pair.scale) != size for pair in state.factors.values()):
            raise ValueError(f"devices keep a B of their own at one rank and scale; {size} is another")
        return state

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """The shared A and head, and the device's own B."""
        if memory is None:
            return Task(received)
        factors = {name: replace(pair, b=memory.tensors[name]) for name, pair in received.factors.items()}
        return Task(replace(received, factors=factors))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained, of which B is kept."""
        return trained, Memory({name: pair.b for name, pair in trained.factors.items()})
