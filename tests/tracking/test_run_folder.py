import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.core.update import Memory
from fedfit.errors import RunFolderError
from fedfit.tracking.checkpoint import Checkpoint
from fedfit.tracking.needs import Mark, Needs
from fedfit.tracking.run_folder import RunFolder
from tests.tracking.results import FINGERPRINT, result

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"


@contextmanager
def another_process_in(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def make_run(path: Path, rounds: int = 3) -> RunFolder:
    """A run that has done rounds 0 to ``rounds``, still held."""
    folder = RunFolder.create(path)
    folder.describe("seed = 1\n", {"cores": 2}, {"labels": ["a", "b"]})
    for number in range(rounds + 1):
        folder.write(result(number), FINGERPRINT)
    return folder


def newest(folder: RunFolder) -> Checkpoint:
    found = folder.latest()
    assert found is not None
    return found


def rounds_in(path: Path) -> list[int]:
    return [json.loads(line)["round"] for line in path.read_text().splitlines()]


def test_everything_it_writes_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    folder = make_run(path)
    folder.save_adapter(lambda place: place.mkdir(), ("a", "b"))
    folder.close()
    assert (path / "recipe.toml").read_text() == "seed = 1\n"
    assert json.loads((path / "environment.json").read_text()) == {"cores": 2}
    assert folder.read_object("partition.json") == {"labels": ["a", "b"]}
    assert rounds_in(path / "rounds.jsonl") == [0, 1, 2, 3]
    assert rounds_in(path / "devices.jsonl") == [1, 1, 2, 2, 3, 3]
    assert json.loads((path / "rounds.jsonl").read_text().splitlines()[3]) == result(3).record.to_json()
    assert json.loads((path / "adapter" / "labels.json").read_text()) == ["a", "b"]
    there = {"recipe.toml", "environment.json", "partition.json", "rounds.jsonl", "devices.jsonl", "checkpoints", "adapter"}
    assert {item.name for item in path.iterdir()} == there | {".lock"}


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    """NaN is no JSON; a program that reads the lines strictly would stop at it."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write(result(1, test_loss=float("inf"), train_loss=float("nan")), FINGERPRINT)
    line = (tmp_path / "run" / "rounds.jsonl").read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    assert (json.loads(line)["test_loss"], json.loads(line)["train_loss"]) == (None, None)
    assert [record.round for record in folder.rewind(newest(folder))[0]] == [1]


# --- in the way


def test_an_existing_run_is_refused_with_three_remedies(tmp_path: Path) -> None:
    make_run(tmp_path / "run").close()
    with pytest.raises(RunFolderError, match=rf"exists already; .*--out.*`fedfit resume {tmp_path}/run`.*--force"):
        RunFolder.create(tmp_path / "run")
    assert rounds_in(tmp_path / "run" / "rounds.jsonl") == [0, 1, 2, 3]


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    RunFolder.create(tmp_path).close()


def test_force_removes_our_files_and_no_others(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.close()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mine.png").write_bytes(b"mine")
    for left in (tmp_path / ".rounds.jsonl.17.part", tmp_path / "report.html"):
        left.write_bytes(b"")
    for left in (tmp_path / ".adapter.part", tmp_path / "figures", tmp_path / "tensorboard"):
        left.mkdir()
        (left / "x").write_bytes(b"")
    RunFolder.create(tmp_path, force=True).close()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "notes.txt", "plots"}
    assert (tmp_path / "plots" / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_somebody_else_is_never_touched(force: bool, tmp_path: Path) -> None:
    """``--out . --force`` in a project would else delete its figures/."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "paper.pdf").write_bytes(b"mine")
    with pytest.raises(RunFolderError, match="holds files that are not of a run; give another --out"):
        RunFolder.create(tmp_path, force=force)
    assert [path.name for path in tmp_path.rglob("*")] == ["figures", "paper.pdf"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_place_of_a_folder(below: str, force: bool, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RunFolderError, match=r"cannot be written: .*file is not a writable folder; choose another --out"):
        RunFolder.create(file / below, force=force)
    assert file.read_text() == "mine"


def test_a_disk_that_takes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(RunFolderError, match="cannot be written: Read-only file system; choose another --out"):
        RunFolder.create(tmp_path / "run")


# --- held


@pytest.mark.parametrize("how", ["open", "force"])
def test_a_second_process_is_refused(how: str, tmp_path: Path) -> None:
    make_run(tmp_path).close()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with another_process_in(tmp_path) as other:
        with pytest.raises(RunFolderError, match="in use by another process; wait for it or stop it first"):
            RunFolder.open(tmp_path) if how == "open" else RunFolder.create(tmp_path, force=True)
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        other.kill()
        other.wait()
        RunFolder.open(tmp_path).close()  # whoever is dead holds nothing


def test_closed_is_free(tmp_path: Path) -> None:
    make_run(tmp_path).close()
    first = RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="in use"):
        RunFolder.open(tmp_path)
    first.close()
    RunFolder.open(tmp_path).close()


@pytest.mark.parametrize("missing", ["recipe.toml", "partition.json"])
def test_only_a_run_is_opened(missing: str, tmp_path: Path) -> None:
    make_run(tmp_path).close()
    (tmp_path / missing).unlink()
    with pytest.raises(RunFolderError, match=f"is not a run folder, it lacks {missing}"):
        RunFolder.open(tmp_path)


def test_a_lock_that_cannot_be_taken(tmp_path: Path) -> None:
    make_run(tmp_path).close()
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunFolderError, match="cannot be written: Is a directory; make it writable"):
        RunFolder.open(tmp_path)


# --- full


@pytest.mark.parametrize("name", ["devices.jsonl", "rounds.jsonl"])
def test_a_full_disk_says_what_to_do(name: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1)
    (folder.path / name).unlink()
    (folder.path / name).symlink_to("/dev/full")
    remedy = f"cannot be written: No space left on device; free some space, then `fedfit resume {folder.path}`"
    with pytest.raises(RunFolderError, match=remedy):
        folder.write(result(2), FINGERPRINT)
    found = folder.checkpoints.latest()
    assert found is not None
    assert found.record.round == 1, "the round counts although a line of it is lost"


def test_a_full_disk_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run", rounds=1)
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if ".checkpoint" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunFolderError, match="Disk quota exceeded; free some space, then"):
        folder.write(result(2), FINGERPRINT)
    found = folder.checkpoints.latest()
    assert found is not None
    assert found.record.round == 1


def test_an_unwritable_file_has_another_remedy(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=1)
    (folder.path / "rounds.jsonl").unlink()
    (folder.path / "rounds.jsonl").mkdir()
    with pytest.raises(RunFolderError, match="Is a directory; make it writable, then `fedfit resume"):
        folder.write(result(2), FINGERPRINT)


def test_an_adapter_that_does_not_fit_on_the_disk(tmp_path: Path) -> None:
    """safetensors has its own error for it; the adapter of before stays."""
    from safetensors.torch import save_file

    from tests.builders import random_update

    folder = make_run(tmp_path / "run", rounds=0)
    folder.save_adapter(lambda place: place.mkdir(), ("old",))

    def full(place: Path) -> None:
        place.mkdir()
        save_file(dict(random_update().groups["head"]), "/dev/full/adapter_model.safetensors")

    with pytest.raises(RunFolderError, match=r"cannot be written: .*then `fedfit resume"):
        folder.save_adapter(full, ("new",))
    assert json.loads((folder.path / "adapter" / "labels.json").read_text()) == ["old"]


# --- rewound


def test_rewind_drops_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    folder = make_run(tmp_path, rounds=1)
    after_round_1 = newest(folder)
    folder.write(result(2), FINGERPRINT)
    folder.write(result(3), FINGERPRINT)
    kept, devices = folder.rewind(after_round_1)
    assert kept == [result(0).record, result(1).record]
    assert devices == list(result(1).devices)
    assert rounds_in(tmp_path / "rounds.jsonl") == [0, 1]
    assert rounds_in(tmp_path / "devices.jsonl") == [1, 1]
    folder.write(result(2), FINGERPRINT)
    assert rounds_in(tmp_path / "rounds.jsonl") == [0, 1, 2]
    assert folder.lost(newest(folder).needs) == [], "the checksum goes on from the lines that stayed"


def test_rewind_to_before_the_first_round(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.memories.write(0, 3, Memory({}, {"x": 1}))
    assert folder.rewind(None) == ([], [])
    assert (tmp_path / "rounds.jsonl").read_bytes() == (tmp_path / "devices.jsonl").read_bytes() == b""
    assert folder.memories.last_round(0, 9) is None


@pytest.mark.parametrize("name", ["devices.jsonl", "rounds.jsonl"])
def test_rewind_drops_every_torn_line(name: str, tmp_path: Path) -> None:
    """Killed after any byte of the line that follows the checkpoint's."""
    folder = make_run(tmp_path)
    counted, whole = newest(folder), (tmp_path / name).read_bytes()
    last = whole[whole.rindex(b"\n", 0, -1) + 1 :]
    for length in (1, len(last) // 2, len(last) - 1, len(last)):
        (tmp_path / name).write_bytes(whole + last[:length])
        assert folder.lost(counted.needs) == []
        folder.rewind(counted)
        assert (tmp_path / name).read_bytes() == whole


@pytest.mark.parametrize(("name", "lines"), [("rounds.jsonl", 4), ("devices.jsonl", 6)])
def test_lines_that_are_lost_or_changed_are_named(name: str, lines: int, tmp_path: Path) -> None:
    make_run(tmp_path).close()
    folder = RunFolder.open(tmp_path)
    whole = (tmp_path / name).read_bytes()
    assert whole.count(b"\n") == lines
    first = whole.index(b"\n") + 1
    for raw, words in (
        (whole[first:], rf"{name} has lost lines: \d+ of {len(whole)} bytes are there"),
        (whole[:-1], rf"{name} has lost lines"),
        (whole.replace(b'"round": 1', b'"round": 7'), rf"{name} was changed within its first {len(whole)} bytes"),
        (b"{torn}\n" + whole, rf"{name} was changed"),
    ):
        (tmp_path / name).write_bytes(raw)
        (said,) = folder.lost(newest(folder).needs)
        assert re.match(words, said), said
    (tmp_path / name).unlink()
    assert folder.lost(newest(folder).needs) == [f"{name} is missing"]


def test_a_line_of_another_version_has_a_remedy(tmp_path: Path) -> None:
    """The checksum holds, and yet the line lacks a key of today's."""
    folder = make_run(tmp_path)
    line = b'{"round": 1}\n'
    (tmp_path / "rounds.jsonl").write_bytes(line)
    older = replace(newest(folder), needs=Needs(records={"rounds.jsonl": Mark(len(line), "")}))
    with pytest.raises(
        RunFolderError, match=r"rounds.jsonl: .*cannot be read .*; go on with the version of fedfit that wrote it"
    ):
        folder.rewind(older)


def test_all_that_is_lost_is_named_at_once_with_a_remedy(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.refuse([])
    with pytest.raises(RunFolderError) as error:
        folder.refuse([f"device {number}" for number in range(40)])
    said = str(error.value).splitlines()
    assert said[0] == f"{tmp_path} cannot go on, since what it needs has changed:"
    assert said[1:3] == ["  device 0", "  device 1"]
    assert said[-2] == "  and 28 more"
    assert said[-1] == f"restore it, or start anew: fedfit run {tmp_path}/recipe.toml --out {tmp_path} --force"


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_rounds_without_any_checkpoint_are_not_dropped(damage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink() if damage == "missing" else path.write_bytes(b"")
    with pytest.raises(
        RunFolderError, match=r"has rounds and no checkpoint .* can be read; restore it, or start anew: fedfit run"
    ):
        folder.latest()


def test_killed_before_the_first_checkpoint_it_begins_again(tmp_path: Path) -> None:
    folder = make_run(tmp_path, rounds=0)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    assert folder.latest() is None


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "3", "null", '"text"', "[" * 100_000, '{"a":' * 100_000, b"\xff".decode("latin1")]
)
@pytest.mark.parametrize("name", ["partition.json", "environment.json"])
def test_a_file_that_holds_no_object_is_named(name: str, text: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (tmp_path / name).write_text(text, encoding="latin1")
    with pytest.raises(RunFolderError, match=rf"{name} cannot be read \(.*\); restore it, or start anew: fedfit run"):
        folder.read_object(name)


def test_opening_sweeps_what_a_kill_left(tmp_path: Path) -> None:
    make_run(tmp_path).close()
    parts = [tmp_path / ".rounds.jsonl.1.part", tmp_path / "checkpoints" / ".round-000003.checkpoint.1.part"]
    for part in parts:
        part.write_bytes(b"half")
    (tmp_path / ".adapter.part").mkdir()
    RunFolder.open(tmp_path).close()
    assert not list(tmp_path.rglob("*.part"))
