"""Local fine-tuning: each device trains the shared adapter on for a while, when it is measured or used.

The plain baseline of personalisation ("FedAvg + fine-tuning"). Nothing is kept: the personal adapter is made anew from the
shared one. Its steps are a device's own compute, after the rounds; the ledger does not charge them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fedfit.core.personal import Local, Models
from fedfit.core.update import Job, Memory, Update
from fedfit.personalization.contract import Method, MethodEntry
from fedfit.schema import key
from fedfit.settings import Recipe


@dataclass(frozen=True)
class Keys:
    """The shared adapter, trained on."""

    steps: int | None = key(None, "steps from the shared adapter; default those of a round", minimum=1)


def train(local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """As without it."""
    return local.train(job), None


def models(keys: Keys, local: Local, job: Job, own: Memory | None) -> Models:
    """The shared one, and the shared one trained on."""
    return Models({"shared": job, "personal": replace_update(job, local.train(job, "fine-tune", steps=keys.steps))})


def replace_update(job: Job, update: Update) -> Job:
    """``update`` on the same frozen weights as ``job``."""
    return Job(update, job.merged_delta)


def make(keys: Keys, recipe: Recipe) -> Method:
    """Fine-tuning with ``keys``."""
    return Method(train, partial(models, keys))


ENTRY = MethodEntry(make, Keys)
