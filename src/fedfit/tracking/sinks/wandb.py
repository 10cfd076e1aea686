"""Weights & Biases: a run in ``run/wandb``, offline unless ``WANDB_MODE`` says otherwise.

``wandb sync run/wandb/offline-run-*`` uploads it. A run that is resumed goes on under the same id in a folder of its own.
"""

from __future__ import annotations

import os
import uuid

import wandb

from fedfit.records import RoundRecord
from fedfit.tracking.sinks.contract import Place, TrackedRun, numbers


class WeightsAndBiases:
    """One W&B run for one run folder, in the project ``WANDB_PROJECT``, else ``fedfit``."""

    def __init__(self, run: TrackedRun) -> None:
        self._place = Place(run.folder / "wandb")
        if self._place.run_id is None:
            self._place.note(uuid.uuid4().hex[:12], -1)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedfit"),
            id=self._place.run_id,
            name=run.name,
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(run.parameters),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, record: RoundRecord) -> None:
        """One round's numbers, the round as the step."""
        if record.round > self._place.last_round and self._place.run_id is not None:
            self._run.log(numbers(record), step=record.round)
            self._place.note(self._place.run_id, record.round)

    def close(self) -> None:
        """Ends the run; W&B's own process writes, or sends, the rest."""
        self._run.finish()
