"""TensorBoard events beside the JSON lines."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fedfit.records import RoundResult

_SCALARS = ("test_accuracy", "test_macro_f1", "test_loss", "train_loss", "uplink_bytes", "downlink_bytes", "seconds")


class TensorBoard:
    """Scalars by round in ``folder``; ``first_round`` hides what an earlier, killed process wrote from there on."""

    def __init__(self, folder: Path, first_round: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_round)

    def write(self, result: RoundResult) -> None:
        """One round's scalars."""
        values = result.record.to_json()
        for name in _SCALARS:
            if values[name] is not None:
                self._writer.add_scalar(name, values[name], result.record.round)
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()
