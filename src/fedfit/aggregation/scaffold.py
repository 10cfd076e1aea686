"""SCAFFOLD: FedAvg whose devices correct each step by what they know of the others' gradients.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, arXiv 1910.06378, Algorithm 1
with option II for the control variates and a server step of 1. With x the global adapter, c and c_i the control variates of
the server and of device i, all zero at first, N the devices that hold data and S those of a round:

    y_i ← y_i - η (g_i(y_i) - c_i + c)          each step, from y_i = x
    Δ_i = (x - y_i) / Ση - c,   c_i ← c_i + Δ_i      after the last; Ση over its steps, the paper's K·η where η is constant
    x ← 1/|S| · Σ_S y_i,   c ← c + 1/N · Σ_S Δ_i

``Δ_i`` is the paper's ``c_i⁺ - c_i``: c_i becomes the mean of the gradients that the device met, and c is the mean of all c_i.
Devices weigh alike in c, so they do in x as well, as in the paper. What a step follows is the gradient of the whole objective,
with weight decay and FedProx's pull, and as clipped; the correction is not clipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.errors import UpdateRefused
from fedfit.records import AdapterSize, Memory, ServerState, Task, Update

_HEADER_BYTES = 128  # of a tensor in a packet beside its name and numbers: type, shape, offsets


class Scaffold(FedAvg):
    """FedAvg with control variates, which travel both ways, each as large as the adapter.

    Whether its reply counted a device learns with its next order: the server counts the replies of each device, and says how
    many. Till then the device keeps c_i as it was, and Δ_i. So c is the mean of all c_i after every round, whatever was late
    or refused.

    The state is a ``ServerState``: c in float64, as ``c <name>`` by the names of ``named_tensors``, and numbers ``counted
    <device>``. Memory: one update at a time; a device keeps its adapter's size in float64 and once more in float32.

    Args:
        devices: N, the devices that hold data.

    Raises:
        ValueError: for fewer than one.
    """

    fixed_rank = True
    uniform = True
    keeps_pair = False

    def __init__(self, devices: int) -> None:
        if devices < 1:
            raise ValueError(f"control variates of {devices} devices have no mean")
        self._devices = devices

    def init(self, adapter: Update) -> ServerState:  # type: ignore[override]
        """c is zero, as every c_i is."""
        return ServerState(adapter, _zeros(adapter))

    def resize(self, state: ServerState, size: AdapterSize, seed: int) -> ServerState:  # type: ignore[override]
        """Before any reply has counted, the adapter at the new rank.

        Raises:
            ValueError: for another rank after that; control variates have no meaning at it.
        """
        resized = super().resize(state.adapter, size, seed)
        if resized is state.adapter:
            return state
        if state.numbers:
            raise ValueError("the rank cannot change: control variates have no meaning at another one")
        return self.init(resized)

    def dispatch(self, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:  # type: ignore[override]
        """The whole adapter and c, and how many replies of the device have counted."""
        sent = super().dispatch(state.adapter, device, size, seed)
        extra = {name: tensor.float() for name, tensor in state.tensors.items()}
        return replace(sent, metrics={"counted": state.numbers.get(f"counted {device}", 0)}, extra=extra)

    def receive(self, received: Update, memory: Memory | None) -> Task:
        """Each gradient is corrected by ``c - c_i``.

        Raises:
            UpdateRefused: when c is not there or of another form, and when other replies counted than the device remembers.
        """
        own = _own(received, memory)
        return Task(received, correction={name: (received.extra[f"c {name}"] - c).float() for name, c in own.items()})

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        """What was trained, and Δ_i in float32; c_i as it was and Δ_i are kept.

        Where the rate was zero throughout, in a warm-up's first step, nothing was learned of the gradient, and Δ_i is zero.
        """
        metrics = dict(trained.metrics)
        rate_sum = metrics.pop("learning_rate_sum")
        received, ends, changes = task.update, named_tensors(trained), {}
        for name, start in named_tensors(received).items():
            c = received.extra[f"c {name}"].double()
            change = (start.double() - ends[name]) / rate_sum - c if rate_sum else c * 0
            changes[name] = change.float()
        kept = {f"c {name}": c for name, c in _own(received, memory).items()}
        kept |= {f"change {name}": change for name, change in changes.items()}
        extra = {f"c {name}": change for name, change in changes.items()}
        return replace(trained, metrics=metrics, extra=extra), Memory(kept, {"counted": received.metrics["counted"]})

    def expected(self, sent: Update, came: Update) -> Update:
        """Names, shapes and scales of what was sent, and Δ_i under the names of c."""
        return sent

    def apply(self, state: ServerState, updates: Iterable[Update]) -> ServerState:  # type: ignore[override]
        """The mean of the adapters; c moves by the sum of all Δ_i over N, in float64.

        Raises:
            ValueError: for an update without an origin: whose c_i moved cannot be told.
        """
        tensors, numbers = {name: c.clone() for name, c in state.tensors.items()}, dict(state.numbers)

        def count(update: Update) -> Update:
            if update.origin is None:
                raise ValueError("an update without an origin: its device cannot be told that it counted")
            for name, c in tensors.items():
                c.add_(update.extra[name].double(), alpha=1 / self._devices)
            key = f"counted {update.origin.device}"
            numbers[key] = numbers.get(key, 0) + 1
            return update

        adapter = super().apply(state.adapter, map(count, updates))
        return state if adapter is state.adapter else ServerState(adapter, tensors, numbers)

    def adapter(self, state: ServerState) -> Update:  # type: ignore[override]
        """The global adapter."""
        return state.adapter

    def extra_downlink_bytes(self, adapter: Update) -> int:
        """c in float32 with its names."""
        return sum(4 * tensor.numel() + len(name.encode()) + _HEADER_BYTES for name, tensor in _zeros(adapter).items())

    def extra_uplink_bytes(self, adapter: Update) -> int:
        """Δ_i, as large as c and under its names."""
        return self.extra_downlink_bytes(adapter)


def _zeros(adapter: Update) -> dict[str, Tensor]:
    return {f"c {name}": torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in named_tensors(adapter).items()}


def _own(received: Update, memory: Memory | None) -> dict[str, Tensor]:
    """The device's c_i in float64 by the names of ``named_tensors``, with the Δ_i of its last reply if that one counted."""
    zeros, counted = _zeros(received), received.metrics.get("counted")
    sent, wanted = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (received.extra, zeros))
    if sent != wanted:
        raise UpdateRefused(f"control variates: got {sent}, wanted {wanted}")
    if counted == 0:
        return {name.removeprefix("c "): tensor for name, tensor in zeros.items()}
    if memory is None:
        raise UpdateRefused(f"{counted} replies of this device have counted, and it remembers none")
    known = memory.numbers["counted"]
    if counted not in (known, known + 1):
        raise UpdateRefused(f"{counted} replies of this device have counted; when it replied last, {known} had")
    own = {name: memory.tensors[f"c {name}"] for name in named_tensors(received)}
    return own if counted == known else {name: c + memory.tensors[f"change {name}"] for name, c in own.items()}
