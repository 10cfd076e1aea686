"""What a rule merges into the frozen weights, and how each device comes to have it too.

The state is a ``ServerState``: beside the adapter the tensors ``base <module>``, ``ΔW`` of shape ``(output, input)``; ``step A
<module>`` and ``step B <module>``, the factors of what was merged last; and the numbers ``version``, how often something was
merged, and ``held <device>``, the version that a device trained with when its update last counted.

A device that has the version before gets the last step, and merges it; any other gets the whole ``ΔW``, against the ``W0`` that
every device has. So does one for which the whole is smaller: steps of rank n take n·(d + k) numbers, the whole d·k. Server and
device add the same float32 product to the same numbers, so their weights agree to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.low_rank import product_factors
from fedfit.errors import UpdateRefused
from fedfit.records import AdapterSize, Factors, Memory, ServerState, Task, Update

_NAMING_BYTES = 400  # the most that name, type, shape and place of one tensor take in a packet's header


class MergingRule(FedAvg):
    """What rules that merge have in common: the state above on the server, the merged weights in a device's memory."""

    keeps_pair = False  # a server's step from the pair alone would leave what is merged behind

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """Nothing merged."""
        return ServerState(adapter)

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:  # type: ignore[override]
        """The pair at another rank, by its nearest product; what is merged does not know of ranks."""
        return replace(state, adapter=super().resize(state.adapter, size, seed))

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """What was sent, over the device's merged weights."""
        return Task(received, received_base(received, memory))

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained; the device keeps its weights."""
        return trained, _remembered(task.base, task.update)

    def adapter(self, state: ServerState) -> Update:  # type: ignore[override]
        """The pair and the head."""
        return state.adapter

    def base(self, state: ServerState) -> Mapping[str, Tensor]:
        """All that was merged."""
        return base_of(state.tensors)

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """The most that a catch-up takes: ``ΔW`` of all modules."""
        return sum(4 * pair.b.shape[0] * pair.a.shape[1] + 2 * _NAMING_BYTES for pair in adapter.factors.values())


def base_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``ΔW`` by module; empty before the first merge."""
    return {name.removeprefix("base "): tensor for name, tensor in tensors.items() if name.startswith("base ")}


def merge(state: ServerState, steps: Mapping[str, Factors], adapter: Update, devices: Iterable[int] = ()) -> ServerState:
    """The state with ``B @ A`` of ``steps``, scales included in the factors, added to the weights, and with ``adapter``.

    Args:
        devices: those that trained with the version up to now.
    """
    version, base = state.numbers.get("version", 0), base_of(state.tensors)
    held = {f"held {device}": version for device in devices}
    tensors: dict[str, Tensor] = {}
    for name, step in steps.items():
        tensors |= {f"base {name}": _added(base.get(name), step.a, step.b), f"step A {name}": step.a, f"step B {name}": step.b}
    return ServerState(adapter, tensors, {**state.numbers, **held, "version": version + 1})


def catch_up(state: ServerState, device: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What ``device`` lacks, as ``Update.extra``, and the version that it then has, as ``Update.metrics``."""
    version, held = state.numbers.get("version", 0), state.numbers.get(f"held {device}", 0)
    whole = {name: tensor for name, tensor in state.tensors.items() if name.startswith("base ")}
    steps = {name: tensor for name, tensor in state.tensors.items() if name.startswith("step ")}
    metrics = {"base_version": version}
    if held == version:
        return {}, metrics
    return (steps if held == version - 1 and _numbers(steps) < _numbers(whole) else whole), metrics


def received_base(received: Update, memory: Memory | None) -> Mapping[str, Tensor]:
    """The device's ``ΔW`` after what it was sent; on the device.

    Raises:
        UpdateRefused: when what was sent leads on from another version than the device has.
    """
    version, own = received.metrics.get("base_version", 0), memory.numbers["version"] if memory else 0
    base = base_of(memory.tensors if memory else {})
    if own == version:
        return base
    whole = base_of(received.extra)
    if whole:
        return whole
    if own != version - 1 or not received.extra:
        raise UpdateRefused(f"its frozen weights are of version {own:g}, and what was sent leads to {version:g}")
    modules = [name.removeprefix("step A ") for name in received.extra if name.startswith("step A ")]
    return {
        name: _added(base.get(name), received.extra[f"step A {name}"], received.extra[f"step B {name}"]) for name in modules
    }


def _remembered(base: Mapping[str, Tensor], received: Update) -> Memory:
    """What the device keeps of ``base``, made of what it ``received``."""
    version = received.metrics.get("base_version", 0)
    return Memory({f"base {name}": tensor for name, tensor in base.items()}, {"version": version})


def folded(adapter: Update, base: Mapping[str, Tensor]) -> Update:
    """``adapter`` and what is merged into the weights as one adapter over ``W0``, of the rank that each module's sum has.

    Where the sum is zero the pair stays, since an adapter of rank 0 is none.
    """
    factors = dict(adapter.factors)
    for name, merged in base.items():
        old = factors[name]
        whole = merged.double() + old.scale * (old.b.double() @ old.a.double())
        found = product_factors(whole, torch.eye(whole.shape[1], dtype=torch.float64), old)
        if len(found.a):
            factors[name] = found
    return replace(adapter, factors=factors)


def _added(base: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return b @ a if base is None else torch.addmm(base, b, a)


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
