"""A head of each device's own over a shared adapter: FedPer trains both together, FedRep one after the other.

* ``fedper``: Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, arXiv 1912.00818.
* ``fedrep``: Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, arXiv
  2102.07078: the head with the adapter frozen, then the adapter with the head frozen.

The head is private: it is neither sent nor averaged. A device's first head is the one that all draw from the recipe's seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from fedfit.core.personal import Local, Models
from fedfit.core.update import HEAD, Job, Memory, Update
from fedfit.personalization.contract import Method, MethodEntry, trainings
from fedfit.personalization.kept import check_names
from fedfit.schema import key
from fedfit.settings import Recipe


@dataclass(frozen=True)
class FedRepKeys:
    """The head, before the adapter."""

    head_steps: int | None = key(
        None, "steps of the head alone, before the adapter's; default those of `[training]`", minimum=1
    )


def with_head(job: Job, own: Memory | None) -> Job:
    """``job`` with the device's own head.

    Raises:
        UpdateRefused: when what was kept is another model's.
    """
    if own is None:
        return job
    check_names(own, job.update.groups[HEAD])
    return replace(job, update=job.update.with_groups({HEAD: own.tensors}))


def fedper(local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """Adapter and head together."""
    trained = local.train(with_head(job, own))
    return trained, Memory(trained.groups[HEAD])


def fedrep(keys: FedRepKeys, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """The head alone, then the adapter alone."""
    started = with_head(job, own)
    headed = local.train(started, "head", frozenset({HEAD}), keys.head_steps)
    trains = started.update.present if local.trains is None else local.trains
    trained = local.train(replace(started, update=headed), groups=trains - {HEAD})
    return trained, Memory(trained.groups[HEAD])


def models(local: Local, job: Job, own: Memory | None) -> Models:
    """The shared adapter with the device's own head."""
    return Models({"personal": with_head(job, own)})


def make_fedper(keys: object, recipe: Recipe) -> Method:
    """FedPer: what a device trains is what it trains without it."""
    return Method(fedper, models, private=frozenset({HEAD}))


def make_fedrep(keys: FedRepKeys, recipe: Recipe) -> Method:
    """FedRep with ``keys``. The head's steps are charged like any other."""
    passes = 1 + trainings(keys.head_steps, recipe)
    return Method(partial(fedrep, keys), models, private=frozenset({HEAD}), passes=passes)


FEDPER_ENTRY = MethodEntry(make_fedper, head=True)
FEDREP_ENTRY = MethodEntry(make_fedrep, FedRepKeys, head=True)
