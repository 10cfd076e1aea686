"""TensorBoard: events in ``run/tensorboard``."""

from __future__ import annotations

import shutil

from torch.utils.tensorboard import SummaryWriter

from fedfit.records import RoundRecord
from fedfit.tracking.sinks.contract import TrackedRun, numbers
from fedfit.tracking.writing import writing


class TensorBoard:
    """Scalars by round, and the recipe as a text.

    The folder is made anew each time: a process killed between a round's checkpoint and its events, or before the checkpoint
    and after the events, would leave a round out or in twice.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._run = run.folder
        folder = run.folder / "tensorboard"
        with writing(self._run):
            if folder.exists():
                shutil.rmtree(folder)
            self._writer = SummaryWriter(str(folder))
            self._writer.add_text("recipe", "\n".join(f"    {key} = {value}" for key, value in run.parameters.items()))

    def write(self, record: RoundRecord) -> None:
        """One round's scalars."""
        with writing(self._run):
            for name, value in numbers(record).items():
                self._writer.add_scalar(name, value, record.round)
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        with writing(self._run):
            self._writer.close()
