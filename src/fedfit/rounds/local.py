"""What a personalisation method may do on one device: see ``core.personal.Local``."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from fedfit.core.personal import Pull
from fedfit.core.update import Job, Update
from fedfit.data.tokenize import Samples
from fedfit.rounds.trainer import Part, Trainer


class LocalRound:
    """One device in one round, or after it.

    Args:
        rows: the device's training part of ``samples``.
        few_shot: its few-shot part.
        trains: the groups that the round trains; all when ``None``.
    """

    def __init__(
        self,
        trainer: Trainer,
        samples: Samples,
        rows: np.ndarray,
        round_number: int,
        device: int,
        few_shot: np.ndarray | None = None,
        trains: frozenset[str] | None = None,
    ) -> None:
        self.round, self.device, self.trains = round_number, device, trains
        self._trainer, self._samples, self._rows = trainer, samples, rows
        self._few_shot = np.zeros(0, dtype=np.int64) if few_shot is None else few_shot
        self._steps = 0

    @property
    def few_shot(self) -> int:
        """Samples in the few-shot part."""
        return len(self._few_shot)

    def train(
        self,
        job: Job,
        part: str = "",
        groups: frozenset[str] | None = None,
        steps: int | None = None,
        pull: Pull | None = None,
    ) -> Update:
        """See ``core.personal.Local``."""
        named = Part((part,) if part else (), steps, pull)
        chosen = self.trains if groups is None else groups
        trained = self._trainer.train(job, self._samples, self._rows, self.round, self.device, chosen, named)
        self._steps += int(trained.facts["steps"])
        return trained

    def references(self, count: int) -> Tensor:
        """See ``core.personal.Local``."""
        return self._trainer.references(self._samples, self._rows, self.device, count)

    def loss(self, job: Job) -> float:
        """See ``core.personal.Local``."""
        found = self._trainer.loss(job, self._samples, self._few_shot)
        return found if math.isfinite(found) else math.nan

    def counted(self, trained: Update) -> Update:
        """``trained`` with all steps of the round as its fact, those of the personal part included."""
        return replace(trained, facts={**trained.facts, "steps": self._steps})
