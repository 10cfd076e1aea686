"""TensorBoard events beside the JSON lines."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fedfit.tracking.writing import writing

_SCALARS = ("test_accuracy", "test_macro_f1", "test_loss", "train_loss", "uplink_bytes", "downlink_bytes", "seconds")


class TensorBoard:
    """Scalars by round in ``run/tensorboard``.

    Made anew from ``rows``, the lines of ``rounds.jsonl`` so far: a process killed between a round's checkpoint and its
    events, or before the checkpoint and after the events, would leave a round out or in twice.
    """

    def __init__(self, run: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        self._run = run
        folder = run / "tensorboard"
        with writing(run):
            if folder.exists():
                shutil.rmtree(folder)
            self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """One round's scalars, by their name in ``rounds.jsonl``; what was not measured is left out."""
        with writing(self._run):
            for name in _SCALARS:
                if row[name] is not None:
                    self._writer.add_scalar(name, row[name], row["round"])
            self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        with writing(self._run):
            self._writer.close()
