"""FedALT: each device goes on with its own adapter, beside a frozen mean of the others', weighed by a gate that it learns.

Bian et al., "FedALT: Federated Fine-Tuning through Adaptive Local Training with Rest-of-World LoRA", AAAI 2026, arXiv
2503.11880:

    y = W0·x + w_1(x)·s·B_L·A_L·x + w_2(x)·s·B_R·A_R·x,   (w_1, w_2) = softmax(G·x)

A_L, B_L and the gates G are trained and stay on the device from round to round; A_L and B_L are also sent. A_R and B_R are
the factor-wise mean of the adapters that the *others* sent last, frozen. The server sends one mean to all, the number of
adapters in it, and whether the device's own is among them: a device takes its own out again, ``R = (n·mean − L) / (n −
1)``.

Where the paper is open: gates start at zero, so at equal shares, and a device weighs as every other. A device's head, where
there is one, is part of its own adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedfit.aggregation.contract import Rule, ServerHalf
from fedfit.core.personal import Local, Models
from fedfit.core.update import GATE, AdapterSize, Factors, Job, Memory, ServerState, Update
from fedfit.errors import Fault
from fedfit.personalization.contract import Method, MethodEntry
from fedfit.personalization.kept import keep, recall
from fedfit.settings import Recipe

_COUNT, _MINE, _ALL = "adapters", "own among them", "devices among them"
_IN = "in "


def train(local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """A round of the device's own adapter and gates. The gates are kept, and not sent."""
    mixed = mixture(job.update, own, bool(job.update.facts.get(_MINE, False)))
    trained = local.train(mixed, groups=mixed.update.present)
    return trained.without({GATE}), keep(trained)


def models(local: Local, job: Job, own: Memory | None) -> Models:
    """The mixture, with the others' newest mean."""
    among = str(job.update.facts.get(_ALL, "")).split(",")
    return Models({"personal": mixture(job.update, own, str(local.device) in among)})


def mixture(mean: Update, own: Memory | None, among: bool) -> Job:
    """The device's own adapter beside the others' mean.

    Args:
        mean: what the server made of all adapters, with their number as a fact; a device's first adapter.
        among: whether the device's own adapter is in ``mean``.
    """
    gates = {name: torch.zeros(2, pair.a.shape[1]) for name, pair in mean.factors.items()}
    first = replace(mean.with_groups({GATE: gates}), facts={})
    adapter = first if own is None else recall(own, first)
    count = int(mean.facts.get(_COUNT, 0))
    others = {
        name: Factors(
            _without(pair.a, adapter.factors[name].a, count, among),
            _without(pair.b, adapter.factors[name].b, count, among),
            pair.scale,
        )
        for name, pair in mean.factors.items()
    }
    return Job(adapter, beside=others)


def _without(mean: Tensor, own: Tensor, count: int, among: bool) -> Tensor:
    """The mean of the others, in the precision of ``mean``; zeros where there is no other."""
    if not among:
        return mean
    return ((count * mean.double() - own.double()) / (count - 1)).to(mean.dtype) if count > 1 else torch.zeros_like(mean)


def around(rule: Rule) -> Rule:
    """``rule`` with uniform weights, whose orders say how many adapters are in the mean, and whether the device's own is."""
    inner = rule.server
    server = replace(
        inner,
        apply=partial(apply, inner),
        dispatch=partial(dispatch, inner),
        model=partial(model, inner),
        begin=partial(begin, inner),
    )
    return Rule(replace(rule.traits, uniform=True, fixed_rank=True, supports_server_optimizer=False), server, rule.device)


def apply(inner: ServerHalf, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The mean of the round; the state's numbers name the devices in it."""
    numbers: dict[str, int | float] = {}

    def noted() -> Iterator[Update]:
        for update in updates:
            if update.origin is not None:
                numbers[f"{_IN}{update.origin.device}"] = 1
            yield update

    before = ServerState(state.adapter)
    after = inner.apply(before, noted())
    return state if after is before else ServerState(after.adapter, numbers=numbers)


def dispatch(inner: ServerHalf, state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
    """The mean, with what the device must know to take its own adapter out."""
    sent = inner.dispatch(ServerState(state.adapter), device, size, seed)
    return replace(sent, facts={_COUNT: len(state.numbers), _MINE: f"{_IN}{device}" in state.numbers})


def model(inner: ServerHalf, state: ServerState) -> Job:
    """The mean, with all that are in it."""
    job = inner.model(ServerState(state.adapter))
    among = ",".join(name.removeprefix(_IN) for name in state.numbers)
    return replace(job, update=replace(job.update, facts={_COUNT: len(state.numbers), _ALL: among}))


def begin(inner: ServerHalf, state: ServerState, round_number: int) -> ServerState:
    """As the rule has it; the numbers stay."""
    plain = ServerState(state.adapter)
    begun = inner.begin(plain, round_number)
    return state if begun is plain else ServerState(begun.adapter, numbers=state.numbers)


def make(keys: object, recipe: Recipe) -> Method:
    """FedALT. A frozen pair costs two of the three products of a trained one, forward and backward: 5/3 of the compute."""
    return Method(train, models, around, private=frozenset({GATE}), passes=5 / 3)


def faults(recipe: Recipe, keys: object) -> Iterator[Fault]:
    """The others' mean is one of whole adapters of one rank."""
    federation = recipe.federation
    if federation.rule != "fedavg":
        yield Fault(
            "federation.rule", federation.rule, "fedalt takes a device's own adapter out of a plain mean; choose fedavg"
        )
    if recipe.plan.policy not in ("none", "fixed"):
        yield Fault("plan.policy", recipe.plan.policy, "with fedalt devices keep adapters of one rank; choose fixed or none")


ENTRY = MethodEntry(make, faults=faults, server_step=True)
