"""FedDPA: a global and a personal adapter, weighed for each text by its likeness to the device's own.

Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", NeurIPS 2024, arXiv 2403.19211:

    y = W0·x + α·s·B_l·A_l·x + (1 − α)·s·B_g·A_g·x,   α = λ · (1/S)·Σ_s cos(f(text), f(text_s))

over S training texts of the device. The global adapter is trained and sent as without it: the rounds are the rule's to the
bit. The personal one never leaves the device:

* ``iterative`` (FedDPA-T): in each round it is trained for a while beside the received global one, which is frozen then, with
  the shares β and 1 − β;
* ``sequential`` (FedDPA-F): it is the global one, trained on when it is measured or used. Nothing is kept.

Where the paper is open, or the split asks for something else: f is the mean hidden state at the cut, which the trunk's cache
holds; the authors' code takes the last token of the last layer, under the personal adapter. The personal adapter starts from
the first global one that the device receives. A head, which has no factors, is the personal one's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from fedfit.core.personal import Local, Models
from fedfit.core.update import Job, Likeness, Memory, Update
from fedfit.errors import Fault
from fedfit.personalization.contract import Method, MethodEntry, trainings
from fedfit.personalization.kept import keep, recall, recalled_at_rank_of
from fedfit.randomness import derive_seed
from fedfit.schema import key
from fedfit.settings import Recipe

PART = "personal"


@dataclass(frozen=True)
class Keys:
    """The personal adapter, and its share."""

    learning: str = key(
        "iterative",
        "the personal adapter is trained in every round, beside the global one, or once, from the global one, when it is used",
        choices=("iterative", "sequential"),
    )
    steps: int | None = key(None, "steps of the personal adapter; default those of `[training]`", minimum=1)
    training_share: float = key(
        0.5, "β, share of the personal adapter while it is trained, `iterative`", minimum=0.01, maximum=1
    )
    most: float = key(0.5, "λ, share of the personal adapter for a text that is like all of the device's", minimum=0, maximum=1)
    references: int = key(5, "S, training texts of the device that a text is compared with", minimum=1)


def train(keys: Keys, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
    """The personal adapter beside the received one, then the global one as the rule has it."""
    if keys.learning == "sequential":
        return local.train(job), None
    start = job.update if own is None else recalled_at_rank_of(own, job.update, derive_seed(local.round, PART, local.device))
    shares = keys.training_share, 1 - keys.training_share
    beside = Job(start, job.merged_delta, beside=job.update.factors, shares=shares)
    personal = local.train(beside, PART, steps=keys.steps)
    return local.train(job), keep(personal)


def models(keys: Keys, local: Local, job: Job, own: Memory | None) -> Models:
    """The global one, and both weighed; a device that has not taken part yet has the global one alone."""
    if keys.learning == "sequential":
        personal = local.train(job, PART, steps=keys.steps)
    elif own is None:
        return Models({"shared": job, "personal": job})
    else:
        personal = recall(own, job.update)
    likeness = Likeness(local.references(keys.references), keys.most)
    mixed = Job(replace(personal, facts={}), job.merged_delta, beside=job.update.factors, shares=likeness)
    return Models({"shared": job, "personal": mixed})


def make(keys: Keys, recipe: Recipe) -> Method:
    """FedDPA with ``keys``. A frozen pair costs two of the three products of a trained one, forward and backward."""
    if keys.learning == "sequential":
        return Method(partial(train, keys), partial(models, keys))
    return Method(partial(train, keys), partial(models, keys), passes=1 + trainings(keys.steps, recipe) * 5 / 3)


def faults(recipe: Recipe, keys: object) -> Iterator[Fault]:
    """Texts that are compared need something to compare: a plain text is predicted from its first token on."""
    if recipe.task.kind == "language_modelling":
        remedy = "feddpa compares prompts, and plain texts have none; choose ditto, or another task"
        yield Fault("personalization.method", recipe.personalization.method, remedy)


ENTRY = MethodEntry(make, Keys, faults=faults)
