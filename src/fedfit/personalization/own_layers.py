"""An adapter of each device's own on the topmost layers, over a shared one below: PFTT and pFedLoRA.

* ``pftt``: Jiang et al., "Personalized Wireless Federated Learning for Large Language Models", 2024, arXiv 2404.13238: one
  adapter is averaged, another stays on the device; both are trained together. There the shared one is Houlsby's, in the same
  layers. **Here LoRA stands in for it, on other layers**: the topmost ones have the device's own.
* ``pfedlora``: Yi et al., "pFedLoRA: Model-Heterogeneous Personalized Federated Learning with LoRA Tuning", 2023, arXiv
  2310.13283: a small shared adapter beside a local model, trained in turn, the local model first, each with the other frozen.
  There local models have any shape. **Here all devices have one frozen base**, and the local model is the topmost layers'
  adapter with the head; its loss is that of both together.

The device's own part is neither sent nor averaged. Its first values are those that all draw from the recipe's seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from fedfit.core.personal import Local, Models
from fedfit.core.update import HEAD, HOME, Job, Memory, Update, grouped, named_tensors
from fedfit.errors import Fault
from fedfit.personalization.contract import Method, MethodEntry, trainings
from fedfit.personalization.kept import check_names
from fedfit.schema import key
from fedfit.settings import Recipe

_WITH_HEAD = HOME | {HEAD}


@dataclass(frozen=True)
class PfttKeys:
    """Which layers are the device's own."""

    own_layers: int = key(1, "the topmost adapted layers, whose adapter stays on the device", minimum=1)


@dataclass(frozen=True)
class PfedloraKeys:
    """Which layers are the device's own, and how long they are trained alone."""

    own_layers: int = key(1, "the topmost adapted layers, whose adapter stays on the device, as does the head", minimum=1)
    own_steps: int | None = key(
        None, "steps of the device's own part, before those of the shared one; default those of `[training]`", minimum=1
    )


def with_own(private: frozenset[str], job: Job, own: Memory | None) -> Job:
    """``job`` with the device's own part.

    Raises:
        UpdateRefused: when what was kept is another model's, or of other layers.
    """
    if own is None:
        return job
    check_names(own, named_tensors(job.update.only(private)))
    return replace(job, update=job.update.with_groups(grouped(own.tensors)))


def _kept(private: frozenset[str], trained: Update) -> Memory:
    return Memory(named_tensors(trained.only(private)))


def pftt(local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """Both adapters together."""
    trained = local.train(with_own(HOME, job, own))
    return trained, _kept(HOME, trained)


def pfedlora(keys: PfedloraKeys, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """The device's own part alone, then the shared adapter alone."""
    started = with_own(_WITH_HEAD, job, own)
    alone = local.train(started, "own", _WITH_HEAD & started.update.present, keys.own_steps)
    trains = started.update.present if local.trains is None else local.trains
    trained = local.train(replace(started, update=alone), groups=trains - _WITH_HEAD)
    return trained, _kept(_WITH_HEAD, trained)


def models(private: frozenset[str], local: Local, job: Job, own: Memory | None) -> Models:
    """The shared adapter below the device's own."""
    return Models({"personal": with_own(private, job, own)})


def make_pftt(keys: PfttKeys, recipe: Recipe) -> Method:
    """PFTT: what a device trains is what it trains without it."""
    return Method(pftt, partial(models, HOME), private=HOME, home_layers=keys.own_layers)


def make_pfedlora(keys: PfedloraKeys, recipe: Recipe) -> Method:
    """pFedLoRA with ``keys``. The steps of the device's own part are charged like any other."""
    passes = 1 + trainings(keys.own_steps, recipe)
    made = partial(pfedlora, keys), partial(models, _WITH_HEAD)
    return Method(*made, private=_WITH_HEAD, home_layers=keys.own_layers, passes=passes)


def faults(recipe: Recipe, keys: object) -> Iterator[Fault]:
    """Pairs of one rank: what stays at home keeps the recipe's."""
    name = recipe.personalization.method
    if recipe.plan.policy not in ("none", "fixed"):
        yield Fault("plan.policy", recipe.plan.policy, f"with {name} devices keep adapters of one rank; choose fixed or none")
    for key_name in ("ranks", "rank_shares"):
        given = getattr(recipe.federation, key_name)
        if given is not None:
            yield Fault(f"federation.{key_name}", given, f"with {name} devices keep adapters of one rank; remove it")


PFTT_ENTRY = MethodEntry(make_pftt, PfttKeys, faults=faults, pairs=True)
PFEDLORA_ENTRY = MethodEntry(make_pfedlora, PfedloraKeys, faults=faults, pairs=True)
