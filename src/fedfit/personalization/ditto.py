"""Ditto: a personal adapter beside the global run, pulled towards the global one.

Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, arXiv 2012.04221, Algorithm 1:

    v_i ← argmin  ℓ_i(v) + λ/2 · ‖v − θ‖²,   θ the global adapter that the device received

The shared adapter is trained and sent as without it: the rounds are the rule's to the bit. v_i starts from the first
adapter that the device receives, and never leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fedfit.core.personal import Local, Models, Pull
from fedfit.core.update import Job, Memory, Update
from fedfit.personalization.contract import Method, MethodEntry, trainings
from fedfit.personalization.kept import keep, recall, recalled_at_rank_of
from fedfit.randomness import derive_seed
from fedfit.schema import key
from fedfit.settings import Recipe

PART = "personal"


@dataclass(frozen=True)
class Keys:
    """The personal adapter beside the global run."""

    strength: float = key(0.1, "λ, pull of the personal adapter towards the received one; 0 is training alone", minimum=0)
    steps: int | None = key(None, "steps of the personal adapter in a round; default those of `[training]`", minimum=1)


def train(keys: Keys, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """The shared adapter as the rule has it, then a round of the personal one."""
    shared = local.train(job)
    start = job.update if own is None else recalled_at_rank_of(own, job.update, derive_seed(local.round, PART, local.device))
    personal = local.train(Job(start), PART, steps=keys.steps, pull=Pull(job.update, keys.strength))
    return shared, keep(personal)


def models(local: Local, job: Job, own: Memory | None) -> Models:
    """The shared one, and the personal one; a device that has not taken part yet has the shared one alone."""
    return Models({"shared": job, "personal": job if own is None else Job(recall(own, job.update))})


def make(keys: Keys, recipe: Recipe) -> Method:
    """Ditto with ``keys``; without ``steps`` a device trains twice as long as without it."""
    return Method(partial(train, keys), models, passes=1 + trainings(keys.steps, recipe))


ENTRY = MethodEntry(make, Keys)
