from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedfit.errors import RunFolderError
from fedfit.tracking.tensorboard import TensorBoard
from tests.tracking.results import result


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False).Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_rounds_before_and_after_a_restart(tmp_path: Path) -> None:
    """The first process wrote rounds 0 to 2, of which the checkpoint knows 0 and 1."""
    first = TensorBoard(tmp_path, ())
    for number in range(3):
        first.write(result(number).record)
    first.close()
    second = TensorBoard(tmp_path, [result(0).record, result(1).record])
    second.write(result(2, test_accuracy=0.75).record)
    second.close()
    assert scalars(tmp_path, "test_accuracy") == [(0, 0.5), (1, pytest.approx(0.51)), (2, 0.75)]
    assert scalars(tmp_path, "train_loss") == [(1, 1.5), (2, 1.5)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, ())
    board.write(result(1, test_loss=float("nan")).record)
    board.write(result(2).record)
    board.close()
    assert scalars(tmp_path, "test_loss") == [(2, 1.25)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_bytes(b"")
    with pytest.raises(RunFolderError, match="cannot be written"):
        TensorBoard(tmp_path, ())
