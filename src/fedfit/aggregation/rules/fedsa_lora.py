"""FedSA-LoRA: A is shared, B stays on its device.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025, arXiv 2410.01463.

    A = Σ p_i A_i,   head = Σ p_i head_i,   p_i = n_i / Σ n_j;   B_i is trained beside A_i and never sent

A travels both ways, with the head: half of the factors' bytes where d = k. There is no one global model. What is measured is
the mean over the devices, each with the shared A and head and its own B_i; a device that has not taken part yet has B_i = 0.
"""

from __future__ import annotations

from fedfit.aggregation.contract import DeviceHalf, Rule, ServerHalf, Traits, entry_of, same_size
from fedfit.aggregation.weighted_mean import average
from fedfit.core.update import LORA_B, Job, Memory, Update


def receive(received: Update, memory: Memory | None) -> Job:
    """The shared A and head, and the device's own B."""
    return Job(received if memory is None else received.with_groups({LORA_B: memory.tensors}))


def send(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The trained update; the device keeps its B."""
    return trained, Memory(trained.groups[LORA_B])


FEDSA_LORA = Rule(
    Traits(needs="pairs", fixed_rank=True, private=frozenset({LORA_B})),
    ServerHalf(average, resize=same_size),
    DeviceHalf(receive, send),
)
"""Sample-weighted mean of A and of the head. The server's B is the initial one: no device sends any."""

ENTRY = entry_of(FEDSA_LORA)
