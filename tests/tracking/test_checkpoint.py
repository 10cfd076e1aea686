from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.needs import Fingerprint, Mark, Needs
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
    assert same_bits(found.state.adapter, result(2).state.adapter)


def test_a_loss_that_is_not_finite_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(result(1, test_loss=float("inf"), train_loss=float("nan")))
    found = checkpoints.latest()
    assert found is not None
    assert found.record.value("test_loss") == float("inf")


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


def _number(raw: bytes) -> bytes:
    """A digit of the head, which stays valid JSON."""
    return raw.replace(b'"test_loss": 1.25', b'"test_loss": 1.75', 1)


def _with(body: bytes) -> bytes:
    """``body`` under a checksum that fits: damage that somebody made on purpose."""
    return xxhash.xxh3_64_hexdigest(body).encode() + b"\n" + body


def _head(raw: bytes) -> bytes:
    return _with(raw.partition(b"\n")[2].replace(b'"test_loss"', b'"tset_loss"', 1))


def _no_needs(raw: bytes) -> bytes:
    return _with(raw.partition(b"\n")[2].replace(b'"memories"', b'"memoirs"', 1))


def _tensors(raw: bytes) -> bytes:
    return _with(raw.partition(b"\n")[2][:-10])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": _cut,
    "flipped": _flip,
    "a number": _number,
    "another head": _head,
    "other needs": _no_needs,
    "cut tensors": _tensors,
    "empty": lambda raw: b"",
    "a list": lambda raw: b"[]\n",
    "no text": lambda raw: b"\xff\n" + raw,
    "a bomb": lambda raw: b"[" * 200_000,
    "a bomb under a checksum": lambda raw: _with(b"[" * 200_000),
    "a list under a checksum": lambda raw: _with(b"[1]\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_gives_way_to_the_one_before(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = tmp_path / "round-000002.checkpoint"
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    found = checkpoints.latest()
    assert found is not None
    assert found.record == result(1).record
    assert same_bits(found.state.adapter, result(1).state.adapter)
    assert "round-000002.checkpoint is damaged" in caplog.text


def test_what_the_run_needs_comes_back(tmp_path: Path) -> None:
    recipe = {"seed": 3, "adapter.layers": "last:2", "federation.ranks": [1, 2], "plan.deadline_s": 0.1}
    memories = {0: Mark(2, "aa"), 1_000_000: Mark(1, "bb")}
    needs = Needs(Fingerprint(recipe, "data", "weights"), {"rounds.jsonl": Mark(812, "cc")}, memories)
    Checkpoints(tmp_path).save(result(2), needs)
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    assert found.needs == needs


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
