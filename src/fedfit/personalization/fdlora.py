"""FDLoRA: a personal and a shared adapter on each device, fused on a few samples.

"FDLoRA: Personalized Federated Learning of Large Language Model via Dual LoRA Tuning", 2024, arXiv 2406.07925, Algorithm 1:

1. each device trains its personal adapter θ_p; these are sent once, in round 1, and their mean is the first shared adapter;
2. in each later round a device takes the recipe's local steps on the shared adapter and sends it; every H rounds ``θ_p ←
   θ_s^i``. With ``g`` the mean of ``θ_s − θ_s^i`` the server takes a Nesterov step, ``v ← μv + g``, ``θ_s ← θ_s − η(μv +
   g)``;
3. AdaFusion weighs the two adapters into one (``personalization/fusion.py``).

Where the paper is open: η = 1, μ = 0.5, H = 5, 40 evaluations, the L1 term as a sum (``docs/personal.md``). Devices weigh
alike, as the paper has it, unless the recipe says otherwise. A device that first takes part after round 1 trains its
personal adapter from the shared one that it receives, then goes on as in step 2. One that misses the round of a
synchronisation has it in its next.

θ_p and what is fused never leave the device, but for the θ_p of round 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from fedfit.aggregation.contract import Rule, ServerHalf
from fedfit.aggregation.server_optimizer import ServerOptimizer
from fedfit.core.personal import Local, Models
from fedfit.core.update import Job, Memory, ServerState, Update
from fedfit.personalization.contract import Method, MethodEntry
from fedfit.personalization.fusion import fuse, search
from fedfit.personalization.kept import keep, recall
from fedfit.schema import key
from fedfit.settings import Recipe

_LAST = "last round"
_FIRST = "first stage"


@dataclass(frozen=True)
class Keys:
    """The two stages, the outer step and the fusion."""

    first_steps: int | None = key(
        None, "steps of the first stage, which trains the personal adapter; default those of `[training]`", minimum=1
    )
    synchronise_every: int = key(
        5, "H, rounds between two copies of the shared adapter to the personal one; 0: never", minimum=0
    )
    outer_learning_rate: float = key(1.0, "η of the server's Nesterov step", above=0)
    outer_momentum: float = key(0.5, "μ of the server's Nesterov step", minimum=0, maximum=0.999)
    fusion: str = key(
        "factors",
        "`factors`: weighted sums of A and of B, the paper's; `products`: the exact sum of both products, at twice the rank; "
        "`none`: no fused model",
        choices=("factors", "products", "none"),
    )
    evaluations: int = key(40, "forward passes over the few-shot part that fusion may take", minimum=2, maximum=10_000)
    optimizer: str = key("nelder_mead", "the search without gradients, of scipy", choices=("nelder_mead", "cobyqa"))
    penalty: float = key(0.05, "of the L1 term in fusion", minimum=0)
    penalty_of: str = key("sum", "the L1 term is the sum, or the mean, of the sizes of both weights", choices=("sum", "mean"))


def train(keys: Keys, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """One round on a device; see the module."""
    personal = None if own is None else recall(own, job.update)
    if personal is None:
        personal = local.train(job, "first stage", steps=keys.first_steps)
        if local.round == 1:
            return personal, keep(personal, {_LAST: 1})
    shared = local.train(job)
    every, last = keys.synchronise_every, 1 if own is None else int(own.numbers[_LAST])
    # Stage 2 begins with round 2. Whoever took part in every round synchronises when H divides the rounds of stage 2.
    if own is not None and every and (local.round - 1) // every > (last - 1) // every:
        personal = shared
    return shared, keep(personal, {_LAST: local.round})


def models(keys: Keys, local: Local, job: Job, own: Memory | None) -> Models:
    """Shared, personal, and fused unless ``keys.fusion`` is none; the shared one in place of what a device cannot have."""
    if own is None:
        return _fallback(keys, job, job, "the device has not taken part yet")
    personal = Job(recall(own, job.update))
    if keys.fusion == "none" or local.few_shot == 0:
        return _fallback(keys, job, personal, "too few samples for a few-shot part")
    products = keys.fusion == "products"

    def loss_of(weights: tuple[float, float]) -> float:
        return local.loss(Job(fuse(personal.update, job.update, weights, products=products)))

    found = search(loss_of, keys.evaluations, keys.penalty, mean=keys.penalty_of == "mean", optimizer=keys.optimizer)
    if found.failed:
        return _fallback(keys, job, personal, found.failed)
    facts = {
        "weight_personal": found.weights[0],
        "weight_shared": found.weights[1],
        "few_shot": local.few_shot,
        "evaluations": found.evaluations,
    }
    fused = Job(fuse(personal.update, job.update, found.weights, products=products))
    return Models({"shared": job, "personal": personal, "fused": fused}, facts)


def _fallback(keys: Keys, shared: Job, personal: Job, why: str) -> Models:
    if keys.fusion == "none":
        return Models({"shared": shared, "personal": personal})
    return Models({"shared": shared, "personal": personal, "fused": shared}, {"not_fused": why})


def around(keys: Keys, rule: Rule) -> Rule:
    """``rule`` with the outer step: the first mean as it is, a Nesterov step of every later one."""
    outer = ServerOptimizer(rule.server, "nesterov", keys.outer_learning_rate, keys.outer_momentum)
    server = replace(outer.half(), apply=partial(apply, outer, rule.server))
    return Rule(replace(rule.traits, uniform=True, linear=False), server, rule.device)


def apply(outer: ServerOptimizer, inner: ServerHalf, state: ServerState, updates: Iterable[Update]) -> ServerState:
    """The state after a round. Its number ``first stage`` says that there is a first mean."""
    if _FIRST in state.numbers:
        return outer.apply(state, updates)
    before = ServerState(state.adapter)
    after = inner.apply(before, updates)
    return state if after is before else ServerState(after.adapter, numbers={**state.numbers, _FIRST: 1})


def make(keys: Keys, recipe: Recipe) -> Method:
    """FDLoRA with ``keys``. The first stage is charged as any round is; fusion, which sends nothing, is not."""
    products = keys.fusion == "products"
    return Method(
        partial(train, keys),
        partial(models, keys),
        partial(around, keys),
        few_shot=keys.fusion != "none",
        rank_factor=2 if products else 1,
    )


ENTRY = MethodEntry(make, Keys, server_step=True)
