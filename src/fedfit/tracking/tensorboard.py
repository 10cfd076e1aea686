"""TensorBoard events beside the JSON lines."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fedfit.records import RoundRecord
from fedfit.tracking.writing import writing

_SCALARS = (
    *("test_accuracy", "test_macro_f1", "test_loss", "train_loss", "uplink_bytes", "downlink_bytes", "seconds"),
    *("rank", "simulated_s", "simulated_j", "server_seconds"),
)


class TensorBoard:
    """Scalars by round in ``run/tensorboard``.

    Made anew from ``records``, the lines of ``rounds.jsonl`` so far: a process killed between a round's checkpoint and its
    events, or before the checkpoint and after the events, would leave a round out or in twice.
    """

    def __init__(self, run: Path, records: Iterable[RoundRecord]) -> None:
        self._run = run
        folder = run / "tensorboard"
        with writing(run):
            if folder.exists():
                shutil.rmtree(folder)
            self._writer = SummaryWriter(str(folder))
        for record in records:
            self.write(record)

    def write(self, record: RoundRecord) -> None:
        """One round's scalars; what was not measured or is not finite is left out."""
        values = record.to_json()
        with writing(self._run):
            for name in _SCALARS:
                if values[name] is not None and math.isfinite(values[name]):
                    self._writer.add_scalar(name, values[name], record.round)
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        with writing(self._run):
            self._writer.close()
