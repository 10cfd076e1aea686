"""The devices' own models by a method of personalisation, where they are measured or used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedfit.core.personal import Models, Personal
from fedfit.core.update import Job, Memory
from fedfit.data.tokenize import Samples
from fedfit.rounds.local import LocalRound
from fedfit.rounds.trainer import Trainer


@dataclass(frozen=True)
class OwnModels:
    """Makes the models of one device after another.

    Args:
        held, few_shot: rows of ``train`` by device: its training part, and what it set aside for the method.
    """

    method: Personal
    trainer: Trainer
    train: Samples
    held: Sequence[np.ndarray]
    few_shot: Sequence[np.ndarray]

    def of(self, device: int, job: Job, own: Memory | None, after_round: int) -> Models:
        """The models of ``device`` after a round, from the shared ``job`` and from what the method kept."""
        number = max(after_round, 1)  # round 0 trains nothing; what a method trains to measure is at the first round's rate
        local = LocalRound(self.trainer, self.train, self.held[device], number, device, self.few_shot[device])
        return self.method.models(local, job, own)
