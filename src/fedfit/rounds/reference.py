"""What a reference model says of a device's samples, for losses that compare with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from fedfit.core.task import Task
from fedfit.data.batches import length_sorted_batches
from fedfit.data.tokenize import Samples
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk

_BATCH_SIZE = 32


class ReferenceValues:
    """The values of the task's reference for samples: of the frozen base, computed once a sample and kept; or of the model that
    the device received, computed at the beginning of each of its rounds.
    """

    def __init__(self, model: SplitModel, trunk: Trunk, task: Task, precision: str) -> None:
        assert task.reference is not None
        self._model, self._trunk, self._task, self._precision = model, trunk, task, precision
        self._reference = task.reference
        self._of_base: dict[bytes, Tensor] = {}

    def values(self, samples: Samples, rows: np.ndarray) -> Mapping[int, Tensor]:
        """The values of each of ``rows``; to be asked for when the received model is loaded and nothing is trained yet."""
        if self._reference.against == "received":
            return dict(self._compute(samples, rows))
        missing = np.array([row for row in rows if samples.hashes[row] not in self._of_base], dtype=np.int64)
        if len(missing):
            with self._model.adapter.disabled():
                for row, values in self._compute(samples, missing):
                    self._of_base[samples.hashes[row]] = values
        return {int(row): self._of_base[samples.hashes[row]] for row in rows}

    @torch.no_grad()
    def _compute(self, samples: Samples, rows: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        self._model.train_mode(False)
        for batch in length_sorted_batches(samples.lengths[rows], _BATCH_SIZE):
            chosen = rows[batch]
            targets = self._task.collate(samples, chosen, self._model.device)
            with autocast(self._model.device, self._precision):
                output = self._model.tail(self._trunk.batch(samples, chosen), self._task.positions(targets))
            yield from zip(chosen.tolist(), self._reference.values(output, targets), strict=True)
