"""Bad data from file to message, through the whole of ``fedfit run``; and data that only look bad, which must work."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import refused
from tests.trajectories.world import LETTERS, World, lines, write_texts

Write = Callable[[Path], object]


def _rows(*rows: tuple[str, str], header: str = "text,label") -> Write:
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write(header + "\r\n")
            csv.writer(file).writerows(rows)

    return write


CASES: dict[str, tuple[str, Write, list[str], list[str]]] = {
    "missing": ("train", lambda path: None, [], ["data.train = '{file}': no such file; relative paths start at"]),
    "empty": ("train", lambda path: path.write_bytes(b""), [], ["{file} is empty: it must hold at least one sample"]),
    "a header alone": ("test", _rows(), [], ["{file} has no rows: it must hold at least one sample"]),
    "wrong column": (
        "train",
        _rows(("ab", "art")),
        ["data.label=lable"],
        ["data.label = 'lable': {file}", "no such column; it has text, label: did you mean 'label'?"],
    ),
    "a label unknown in the test set": (
        "test",
        _rows(("ab", "art"), ("cd", "cooking")),
        [],
        ["{file}", "has the label 'cooking' (row 2), which the training set does not have", "'art', 'law', 'sport'"],
    ),
    "one class": ("train", _rows(("ab", "art"), ("cd", "art")), [], ["{file}", "one class only, 'art' (data.label)"]),
    "no label": ("train", _rows(("ab", "art"), ("cd", "")), [], ["{file}", "has no label in row 2", "label them or take them"]),
    "semicolons": (
        "train",
        lambda path: path.write_bytes(b"text;label\r\nart, and more;art\r\n"),
        [],
        ["{file} is separated by semicolons, and csv by commas: save it as csv, for example with pandas.read_csv("],
    ),
    "validation": ("validation", lambda path: None, [], ["data.validation = '{file}': no such file"]),
    "not UTF-8": (
        "train",
        lambda path: path.write_bytes(b"text,label\ncaf\xe9,art\n"),
        [],
        ["{file} is not UTF-8 (byte 14, line 2): re-encode it as UTF-8"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_cannot_be_learned_from(case: str, world: World, tmp_path: Path) -> None:
    which, write, more, says = CASES[case]
    file = tmp_path / f"{which}.csv"
    write(file)
    command = world.command(tmp_path / "run", f"data.{which}={file}", *more)
    refused(*command, says=[fragment.format(file=file) for fragment in says])
    assert not (tmp_path / "run").exists(), "what cannot run leaves nothing behind"


def test_more_devices_than_samples(world: World, tmp_path: Path) -> None:
    says = ["federation.devices = 46: more than the 45 training samples; take at most 45 devices or more samples"]
    refused(*world.command(tmp_path / "run", "federation.devices=46"), says=says)
    says = ["data.train_samples = 100: there are only 45 samples"]
    refused(*world.command(tmp_path / "run", "data.train_samples=100"), says=says)
    world.run(tmp_path / "each-one", "federation.devices=45", "federation.rounds=1")


def test_dirichlet_that_leaves_devices_without_a_sample(world: World, tmp_path: Path) -> None:
    """0.1 with 100 devices works as long as those that hold something suffice, else it says what to change."""
    train = write_texts(tmp_path / "train.csv", 150, seed=3)
    skew = [f"data.train={train}", "partition.kind=dirichlet", "partition.alpha=0.1", "federation.devices=100"]
    run = world.run(tmp_path / "run", *skew, "federation.devices_per_round=3", "federation.rounds=2")
    devices = lines(run / "devices.jsonl")
    assert len(devices) == 6
    assert all(row["samples"] > 0 and row["refused"] is None for row in devices)
    says = ["federation.devices_per_round = 100: only ", " of 100 devices hold a sample after the partition; lower it"]
    refused(*world.command(tmp_path / "other", *skew, "federation.devices_per_round=100"), says=says)


def test_texts_that_are_empty_or_huge(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An empty text is its special tokens; of a megabyte the first ``max_tokens`` are read."""
    rows = [(text, label) for text in ("", "   ", "\u0000\ufffd\U0001f600", "ab") for label in LETTERS]
    rows += [("ab " * 350_000, "art"), ("a" * 1_000_000, "law")]
    files = []
    for which in ("train", "test"):
        file = tmp_path / f"{which}.csv"
        _rows(*rows)(file)
        files.append(f"data.{which}={file}")
    run = world.run(tmp_path / "run", *files, "federation.rounds=1")
    last = lines(run / "rounds.jsonl")[-1]
    assert last["refused"] == 0
    assert last["train_loss"] > 0
    warnings = [record.getMessage() for record in caplog.records if "blank text" in record.getMessage()]
    assert [warning.split(":")[0] for warning in warnings] == [
        f"{tmp_path / f'{part}.csv'} (data.{part})" for part in ("train", "test")
    ]
    assert all("6 rows (the first is row 1) have a blank text, 42.9 % of 14; " in warning for warning in warnings)
