"""SCAFFOLD: FedAvg whose devices correct each step by an estimate of the others' gradients.

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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, DeviceHalf, Rule, RuleEntry, ServerHalf, Traits, whole_adapter
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.weighted_mean import average
from fedfit.core.checks import int_fact
from fedfit.core.update import AdapterSize, Job, Memory, ServerState, Update, named_tensors
from fedfit.errors import Fault, UpdateRefused
from fedfit.settings import Recipe

_C = "variates"
_HEADER_BYTES = 128  # of a tensor in a packet beside its name and numbers: type, shape, offsets


def init(adapter: Update) -> ServerState:
    """c is zero, as every c_i is."""
    return ServerState(adapter, _zeros(adapter))


def resize(state: ServerState, size: AdapterSize, seed: int) -> ServerState:
    """Before any reply has counted, the adapter at the new rank.

    Raises:
        ValueError: for another rank after that; control variates have no meaning at it.
    """
    resized = resize_update(state.adapter, size, seed)
    if resized is state.adapter:
        return state
    if state.numbers:
        raise ValueError("the rank cannot change: control variates have no meaning at another one")
    return init(resized)


def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The whole adapter and c, and how many replies of the device have counted."""
    sent = whole_adapter(state, device, size, seed)
    variates = {name: tensor.float() for name, tensor in state.tensors.items()}
    counted = int(state.numbers.get(f"counted {device}", 0))
    return replace(sent.with_groups({_C: variates}), weight=1.0, facts={"counted": counted})


def receive(received: Update, memory: Memory | None) -> Job:
    """Each gradient is corrected by ``c - c_i``.

    Raises:
        UpdateRefused: when c is absent or of another form, and when other replies counted than the device remembers.
    """
    own, adapter = _own(received, memory), received.without({_C})
    c = received.groups[_C]
    return Job(adapter, correction={name: (c[name] - mine).float() for name, mine in own.items()}, kept=c)


def send(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The trained update and Δ_i in float32; the device keeps c_i as it was, and Δ_i.

    Where the rate was zero throughout, in a warm-up's first step, nothing was learned of the gradient, and Δ_i is zero.
    """
    facts = dict(trained.facts)
    rate_sum = float(facts.pop("learning_rate_sum"))
    counted = int_fact(job.update, "counted")
    own = own_variates(job.update, memory, counted)
    ends, changes = named_tensors(trained), {}
    for name, start in named_tensors(job.update).items():
        c = job.kept[name].double()
        changes[name] = ((start.double() - ends[name]) / rate_sum - c if rate_sum else c * 0).float()
    kept = {f"c {name}": c for name, c in own.items()} | {f"change {name}": change for name, change in changes.items()}
    return replace(trained.with_groups({_C: changes}), facts=facts), Memory(kept, {"counted": counted})


def apply(devices: int, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The mean of the adapters; c moves by the sum of all Δ_i over N, in float64.

    Raises:
        ValueError: for an update without an origin: its device cannot be known.
    """
    tensors, numbers = {name: c.clone() for name, c in state.tensors.items()}, dict(state.numbers)

    def count(update: Update) -> Update:
        if update.origin is None:
            raise ValueError("an update without an origin: no c_i can be said to have moved")
        for name, c in tensors.items():
            c.add_(update.groups[_C][name].double(), alpha=1 / devices)
        number = f"counted {update.origin.device}"
        numbers[number] = numbers.get(number, 0) + 1
        return update

    after = average(state, map(count, updates))
    return state if after is state else ServerState(after.adapter, tensors, numbers)


def extra_bytes(adapter: Update) -> int:
    """c, or Δ_i, in float32 with its names."""
    return sum(4 * tensor.numel() + len(name.encode()) + _HEADER_BYTES for name, tensor in _zeros(adapter).items())


def _zeros(adapter: Update) -> dict[str, Tensor]:
    return {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in named_tensors(adapter).items()}


def _own(received: Update, memory: Memory | None) -> dict[str, Tensor]:
    """The device's c_i, after a check of the received update."""
    zeros = _zeros(received.without({_C}))
    sent, wanted = _shapes(received.groups.get(_C, {})), _shapes(zeros)
    if sent != wanted:
        raise UpdateRefused(f"control variates: got {sent}, wanted {wanted}")
    return own_variates(received.without({_C}), memory, int_fact(received, "counted"))


def own_variates(adapter: Update, memory: Memory | None, counted: int) -> dict[str, Tensor]:
    """The device's c_i in float64 by the names of ``named_tensors``, with the Δ_i of its last reply if that one counted.

    Raises:
        UpdateRefused: when other replies counted than the device remembers.
    """
    if counted == 0:
        return _zeros(adapter)
    if memory is None:
        raise UpdateRefused(f"{counted} replies of this device have counted, and it remembers none")
    known = int(memory.numbers["counted"])
    if counted not in (known, known + 1):
        raise UpdateRefused(f"{counted} replies of this device have counted; when it replied last, {known} had")
    own = {name: memory.tensors[f"c {name}"] for name in named_tensors(adapter)}
    return own if counted == known else {name: c + memory.tensors[f"change {name}"] for name, c in own.items()}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def faults(recipe: Recipe, keys: object) -> Iterator[Fault]:
    """Control variates need plain SGD, one rank, and devices that weigh alike."""
    federation, training = recipe.federation, recipe.training
    if federation.weighting == "samples":
        remedy = "scaffold lets devices weigh alike, as its control variates do; choose rule or uniform"
        yield Fault("federation.weighting", "samples", remedy)
    summed = "federation.rule = 'scaffold' takes the sum of the gradients from how far a device moved"
    if training.optimizer != "sgd":
        yield Fault("training.optimizer", training.optimizer, f"{summed}; set it to sgd")
    elif training.momentum:
        yield Fault("training.momentum", training.momentum, f"{summed}; set it to 0")
    if training.precision == "fp16":
        remedy = f"{summed}, and fp16 leaves out steps that overflow; choose bf16 or fp32"
        yield Fault("training.precision", "fp16", remedy)


def make(keys: object, context: Context) -> Rule:
    """FedAvg with control variates, which travel both ways, each as large as the adapter.

    A device learns with its next order whether its reply counted: the server counts the replies of each device, and sends the
    count. Until then the device keeps c_i as it was, and Δ_i. So c is the mean of all c_i after every round, whatever was late
    or refused.

    The state's tensors are c in float64, by the names of ``named_tensors``; its numbers are ``counted <device>``. Memory: one
    update at a time; a device keeps its adapter's size in float64 and once more in float32.

    Raises:
        ValueError: for fewer than one device that holds data.
    """
    if context.holders < 1:
        raise ValueError(f"control variates of {context.holders} devices have no mean")
    server = ServerHalf(
        partial(apply, context.holders),
        init=init,
        resize=resize,
        dispatch=dispatch,
        downlink_extra_bytes=extra_bytes,
        uplink_extra_bytes=extra_bytes,
    )
    traits = Traits(fixed_rank=True, uniform=True, supports_server_optimizer=False)
    return Rule(traits, server, DeviceHalf(receive, send))


ENTRY = RuleEntry(make, faults=faults)
