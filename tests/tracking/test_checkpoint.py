from pathlib import Path

import pytest

from fedfit.tracking.checkpoint import Checkpoints
from tests.builders import same_bits
from tests.tracking.results import result


def saved(folder: Path, *numbers: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for number in numbers:
        checkpoints.save(result(number))
    return checkpoints


def test_the_newest_comes_back_whole(tmp_path: Path) -> None:
    found = saved(tmp_path / "checkpoints", 0, 1, 2).latest()
    assert found is not None
    assert found.record == result(2).record
    assert same_bits(found.state, result(2).state)


def test_a_loss_that_is_not_finite_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(result(1, test_loss=float("inf"), train_loss=float("nan")))
    found = checkpoints.latest()
    assert found is not None
    assert found.record.test_loss == float("inf")


def test_two_are_kept_also_past_round_ten(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, *range(12))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000010.checkpoint", "round-000011.checkpoint"]
    found = checkpoints.latest()
    assert found is not None
    assert found.record.round == 11


def test_none_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "not there").latest() is None


def _cut(raw: bytes) -> bytes:
    return raw[:-10]


def _flip(raw: bytes) -> bytes:
    """One bit of a weight; safetensors has no checksum and would take it."""
    return raw[:-1] + bytes([raw[-1] ^ 1])


def _head(raw: bytes) -> bytes:
    return raw.replace(b'"test_loss"', b'"tset_loss"', 1)


@pytest.mark.parametrize("damage", [_cut, _flip, _head, lambda raw: b"", lambda raw: b"[]\n", lambda raw: b"\xff\n" + raw])
def test_a_damaged_one_gives_way_to_the_one_before(damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = tmp_path / "round-000002.checkpoint"
    newest.write_bytes(damage(newest.read_bytes()))  # type: ignore[operator]
    found = checkpoints.latest()
    assert found is not None
    assert found.record == result(1).record
    assert same_bits(found.state, result(1).state)
    assert "round-000002.checkpoint is damaged" in caplog.text


def test_all_damaged_is_none(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(b"{}")
    assert checkpoints.latest() is None


def test_what_is_half_written_is_not_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / ".round-000002.checkpoint.17.part").write_bytes(b"half")
    found = checkpoints.latest()
    assert found is not None
    assert found.record.round == 1
    assert caplog.text == ""
