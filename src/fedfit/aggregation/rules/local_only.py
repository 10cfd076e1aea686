"""No federation: every device trains alone, on its own samples, and no tensor travels. The floor of every comparison.

Orders and replies are packets all the same, of some hundred bytes of framing, which are counted as every packet is.

What is measured is the mean over the devices, each with its own model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedfit.aggregation.contract import DeviceHalf, Rule, ServerHalf, Traits, entry_of
from fedfit.aggregation.rules.hetlora import truncated
from fedfit.core.checks import int_fact
from fedfit.core.update import AdapterSize, Job, Memory, ServerState, Update, grouped, named_tensors


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The start of a device without memory; of it the rank and the scale alone are sent."""
    start = {name: replace(truncated(pair, size.rank, name), scale=size.scale) for name, pair in state.adapter.factors.items()}
    return replace(state.adapter.with_factors(start), weight=1.0, facts={"rank": size.rank})


def receive(received: Update, memory: Memory | None) -> Job:
    """The device's own adapter; the initial one, cut to its rank, the first time."""
    if memory is not None:
        scale = float(memory.numbers["scale"])
        return Job(replace(received, groups=grouped(memory.tensors), scales=dict.fromkeys(received.scales, scale)))
    rank = int_fact(received, "rank") if "rank" in received.facts else received.rank
    return Job(received.with_factors({name: truncated(pair, rank, name) for name, pair in received.factors.items()}))


def send(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """Nothing is sent, all is kept."""
    return trained, Memory(named_tensors(trained), {"scale": next(iter(trained.scales.values()), 1.0)})


def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The server learns nothing."""
    for update in updates:
        del update
    return state


LOCAL_ONLY = Rule(
    Traits(mixed_ranks=True, fixed_rank=True, supports_server_optimizer=False, shares=False),
    ServerHalf(apply, dispatch=dispatch),
    DeviceHalf(receive, send),
)
"""Each device goes on from its own last round. The first begins with the first rows of the initial A, at its rank."""

ENTRY = entry_of(LOCAL_ONLY)
