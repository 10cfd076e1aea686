"""The weights that a rule merges into the frozen ones, and how each device gets them too.

The state's tensors are those of three groups: ``delta``, ``ΔW`` of shape ``(output, input)`` by module; ``step_A`` and
``step_B``, the factors of the last merge. Its numbers are ``version``, the count of merges, and ``held <device>``, the version
that a device trained with when its update last counted.

A device that has the version before gets the last step, and merges it; any other gets the whole ``ΔW``, against the ``W0`` that
every device has. So does a device for which the whole is smaller: steps of rank n take n·(d + k) numbers, the whole d·k. Server
and device add the same float32 product to the same numbers, so their weights agree to the bit: the groups are ``exact``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.low_rank import product_factors
from fedfit.core.checks import int_fact
from fedfit.core.update import Factors, Job, Memory, ServerState, Update, grouped, named_tensors
from fedfit.errors import UpdateRefused

DELTA, STEP_A, STEP_B = "delta", "step_A", "step_B"
EXACT = frozenset({DELTA, STEP_A, STEP_B})
_NAMING_BYTES = 400  # the most that name, type, shape and place of one tensor take in a packet's header


def merged_model(state: ServerState) -> Job:
    """The adapter over all that was merged."""
    return Job(state.adapter, delta_of(state.tensors))


def keep_delta(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
    """The trained update; the device keeps its merged weights and their version."""
    kept = named_tensors(Update({DELTA: job.merged_delta}))
    return trained, Memory(kept, {"version": _version(job.update)})


def adapter_form(sent: Update) -> Sequence[Update]:
    """The form of ``sent`` less the merged weights: they do not travel back."""
    return (sent.without(EXACT),)


def catch_up_bytes(adapter: Update) -> int:
    """The most that a catch-up takes: ``ΔW`` of all modules."""
    return sum(4 * pair.b.shape[0] * pair.a.shape[1] + 2 * _NAMING_BYTES for pair in adapter.factors.values())


def delta_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``ΔW`` by module; empty before the first merge."""
    return grouped(tensors).get(DELTA, {})


def merge(state: ServerState, steps: Mapping[str, Factors], adapter: Update, devices: Iterable[int] = ()) -> ServerState:
    """The state with ``B @ A`` of ``steps``, scales included in the factors, added to the weights, and with ``adapter``.

    Args:
        devices: those that trained with the version up to now.
    """
    version, delta = state.numbers.get("version", 0), delta_of(state.tensors)
    held = {f"held {device}": version for device in devices}
    groups = {
        DELTA: {name: _added(delta.get(name), step.a, step.b) for name, step in steps.items()},
        STEP_A: {name: step.a for name, step in steps.items()},
        STEP_B: {name: step.b for name, step in steps.items()},
    }
    return ServerState(adapter, named_tensors(Update(groups)), {**state.numbers, **held, "version": version + 1})


def catch_up(state: ServerState, device: int, adapter: Update) -> Update:
    """``adapter`` with the groups that ``device`` lacks, and the version that it then has as the fact ``version``."""
    version, held = state.numbers.get("version", 0), state.numbers.get(f"held {device}", 0)
    groups = grouped(state.tensors)
    whole = {DELTA: groups.get(DELTA, {})}
    steps = {name: groups.get(name, {}) for name in (STEP_A, STEP_B)}
    facts = {**adapter.facts, "version": int(version)}
    if held == version:
        return replace(adapter, weight=1.0, facts=facts)
    missing = steps if held == version - 1 and _numbers(steps) < _numbers(whole) else whole
    return replace(adapter.with_groups(missing), weight=1.0, facts=facts, exact=adapter.exact | EXACT)


def received_delta(received: Update, memory: Memory | None) -> Mapping[str, Tensor]:
    """The device's ``ΔW`` after the received update; on the device.

    Raises:
        UpdateRefused: when the update leads on from another version than the device has.
    """
    version, own = _version(received), int(memory.numbers["version"]) if memory else 0
    delta = delta_of(memory.tensors if memory else {})
    if own == version:
        return delta
    if received.groups.get(DELTA):
        return received.groups[DELTA]
    steps = received.groups.get(STEP_A, {}), received.groups.get(STEP_B, {})
    if own != version - 1 or not steps[0] or steps[0].keys() != steps[1].keys():
        raise UpdateRefused(f"its frozen weights are of version {own}, and the received update leads to {version}")
    return {name: _added(delta.get(name), a, steps[1][name]) for name, a in steps[0].items()}


def folded(adapter: Update, delta: Mapping[str, Tensor]) -> Update:
    """``adapter`` and the merged weights as one adapter over ``W0``, of the rank that each module's sum has.

    Where the sum is zero the pair stays, since an adapter of rank 0 is none.
    """
    factors = dict(adapter.factors)
    for name, merged in delta.items():
        old = factors[name]
        whole = merged.double() + old.scale * (old.b.double() @ old.a.double())
        found = product_factors(whole, torch.eye(whole.shape[1], dtype=torch.float64), old)
        if len(found.a):
            factors[name] = found
    return adapter.with_factors(factors) if delta else adapter


def _version(update: Update) -> int:
    return int_fact(update, "version") if "version" in update.facts else 0


def _added(delta: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return b @ a if delta is None else torch.addmm(delta, b, a)


def _numbers(groups: Mapping[str, Mapping[str, Tensor]]) -> int:
    return sum(tensor.numel() for tensors in groups.values() for tensor in tensors.values())
