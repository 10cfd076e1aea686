"""The converted copy of a GGUF model, with a conversion that only writes two files."""

import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfit.errors import ModelError
from fedfit.models import gguf_copy
from fedfit.models.gguf_copy import converted_copy

WEIGHTS = b"weights" * 1000

# The same in another process: it notes each conversion, and may take its time or be killed half-way.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from fedfit.models import gguf_copy

gguf, notes, act = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def convert(source, folder):
    with notes.open("a") as file:
        file.write("x")
    (folder / "config.json").write_text("{}")
    if act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)

gguf_copy.convert = convert
print(gguf_copy.converted_copy("small", gguf))
"""


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def convert(source: Path, folder: Path) -> None:
        made.append(source)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(WEIGHTS)

    monkeypatch.setattr(gguf_copy, "convert", convert)
    return made


def start(gguf: Path, act: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(gguf), str(gguf.with_name("notes")), act]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_made_once_and_the_log_says_so(gguf: Path, conversions: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = converted_copy("small", gguf)
    assert "'small' is converted from its package's GGUF, once; about 15 s" in caplog.text
    caplog.clear()
    assert converted_copy("small", gguf) == folder
    assert conversions == [gguf]
    assert caplog.text == ""
    assert files(folder) == ["checksums.json", "config.json", "model.safetensors"]
    assert folder.parent == gguf.parent / "cache" / "models"


def test_another_gguf_and_another_transformers_have_a_folder_of_their_own(
    gguf: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = converted_copy("small", gguf)
    gguf.write_bytes(b"GGUF, newer")
    second = converted_copy("small", gguf)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "99.0")
    third = converted_copy("small", gguf)
    assert len({first, second, third}) == len(conversions) == 3
    assert all((folder / "checksums.json").is_file() for folder in (first, second, third))


def cut(path: Path) -> None:
    path.write_bytes(WEIGHTS[:-1])


def flip(path: Path) -> None:
    os.utime(path, ns=(0, 0))
    path.write_bytes(b"W" + WEIGHTS[1:])  # of the same size


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_copy_is_made_anew(
    damage: Callable[[Path], None], gguf: Path, conversions: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = converted_copy("small", gguf)
    caplog.clear()
    damage(folder / "model.safetensors")
    assert converted_copy("small", gguf) == folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len(conversions) == 2
    assert "is damaged; it is made anew" in caplog.text


@pytest.mark.parametrize("checksums", ["", "{}", "[]", '{"config.json": 1}', '{"no.such.file": "00"}'])
def test_so_is_one_whose_checksums_are_damaged(checksums: str, gguf: Path, conversions: list[Path]) -> None:
    folder = converted_copy("small", gguf)
    (folder / "checksums.json").write_text(checksums)
    converted_copy("small", gguf)
    assert len(conversions) == 2
    assert (folder / "checksums.json").read_text() != checksums


def test_two_processes_at_once_convert_once(gguf: Path) -> None:
    runs = [start(gguf), start(gguf)]
    printed = {run.communicate(timeout=60) for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    ((path, _), *others) = sorted(printed)
    assert {other for other, _ in others} <= {path}
    assert (Path(path.strip()) / "model.safetensors").read_bytes() == WEIGHTS
    assert gguf.with_name("notes").read_text() == "x"


def test_a_killed_conversion_leaves_nothing_half_made(gguf: Path, conversions: list[Path]) -> None:
    killed = start(gguf, "killed")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    models = gguf.parent / "cache" / "models"
    assert [name for name in files(models) if not name.startswith(".")] == []
    folder = converted_copy("small", gguf)
    assert files(folder) == ["checksums.json", "config.json", "model.safetensors"]
    assert files(models) == [f".{folder.name}.lock", folder.name]
    assert len(conversions) == 1


def test_a_failed_conversion_says_why_and_leaves_nothing(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_copy, "convert", full)
    with pytest.raises(ModelError, match=r"'small' cannot be converted into .*No space left.*0\.6 GB.*FEDFIT_CACHE"):
        converted_copy("small", gguf)
    assert [name for name in files(gguf.parent / "cache" / "models") if not name.endswith(".lock")] == []


def test_a_cache_folder_that_cannot_be_written_is_named(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_CACHE", str(gguf))
    with pytest.raises(ModelError, match=r"small\.gguf/models/.*Not a directory.*FEDFIT_CACHE"):
        converted_copy("small", gguf)


def test_without_the_package_gguf_it_is_named_but_a_whole_copy_needs_none(
    gguf: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(ModelError, match="pip install gguf"):
        converted_copy("small", gguf)
    monkeypatch.undo()
    monkeypatch.setenv("FEDFIT_CACHE", str(gguf.parent / "cache"))
    monkeypatch.setattr(gguf_copy, "convert", lambda _, folder: (folder / "config.json").write_text("{}"))
    folder = converted_copy("small", gguf)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert converted_copy("small", gguf) == folder


def test_a_file_is_read_once_a_process(gguf: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted_copy("small", gguf)
    converted_copy("small", gguf)
    before = gguf_copy._digest.cache_info().misses
    started = time.perf_counter()
    assert all(converted_copy("small", gguf) == folder for _ in range(20))
    assert gguf_copy._digest.cache_info().misses == before
    assert time.perf_counter() - started < 1
