from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedfit.errors import RunFolderError
from fedfit.records import DeviceRecord, RoundRecord
from fedfit.reports.read import display_names, read_run
from fedfit.reports.tables import status, summary_rows

from .conftest import MakeRun, device_line, round_line


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_reads_every_part(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert run.name == "agnews-minilm"
    assert run.recipe["adapter"]["targets"] == ["query", "value"]
    assert run.environment["versions"] == {"torch": "2.8.0"}
    assert [row["round"] for row in run.rounds] == [0, 1, 2, 3]
    assert len(run.devices) == 3 * 3
    assert run.partition is not None
    assert run.partition["counts"][2] == [32, 20, 25, 25]
    assert math.isnan(run.series("train_loss")[0])
    assert [row["device"] for row in run.last_devices()] == [0, 1, 2]


def test_lines_made_by_hand_have_the_keys_of_the_records() -> None:
    assert round_line(1, 0.5).keys() == RoundRecord.from_json(round_line(1, 0.5)).to_json().keys()
    assert device_line(1, 0).keys() == DeviceRecord(1, 0, 1, 1, 1.0, 1, 1, 1.0).to_json().keys()


def test_unfinished_run_is_read_as_far_as_it_goes(make_run: MakeRun) -> None:
    run = read_run(make_run(planned=10))
    assert status(run) == "unfinished"
    assert (summary_rows(run)["rounds"], summary_rows(run)["rounds_planned"]) == (3, 10)


def test_devices_of_a_round_that_is_not_finished_are_not_its_last(make_run: MakeRun) -> None:
    folder = make_run(planned=10)
    append(folder / "devices.jsonl", json.dumps(device_line(4, 0)).encode() + b"\n")
    assert {row["round"] for row in read_run(folder).last_devices()} == {3}


def test_run_that_reached_its_target_is_not_unfinished(make_run: MakeRun) -> None:
    """Accuracy 0.85 after round 3 of 10 meets the target 0.85."""
    assert status(read_run(make_run(planned=10, target=0.85))) == "target accuracy reached"


@pytest.mark.parametrize("name", ["rounds.jsonl", "devices.jsonl"])
def test_partial_last_line_is_left_out(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    before = read_run(folder)
    append(folder / name, b'{"round": 4, "test_acc')
    assert read_run(folder) == before


def test_whole_last_line_without_newline_counts(make_run: MakeRun) -> None:
    folder = make_run()
    append(folder / "rounds.jsonl", json.dumps(round_line(4, 0.95)).encode())
    assert read_run(folder).rounds[-1]["round"] == 4


@pytest.mark.parametrize(
    "damage",
    [
        b'{"round": 1, "test_acc',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"round": 1}',
        b"null",
        json.dumps({**round_line(1, 0.5), "seconds": "two"}).encode(),
        json.dumps({**round_line(1, 0.5), "round": True}).encode(),
    ],
)
def test_damaged_line_is_named(make_run: MakeRun, damage: bytes) -> None:
    folder = make_run()
    lines = (folder / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_bytes(b"".join([lines[0], damage + b"\n", *lines[2:]]))
    with pytest.raises(RunFolderError, match=r"rounds\.jsonl, line 2 is damaged"):
        read_run(folder)


def test_damaged_line_of_devices_is_named(make_run: MakeRun) -> None:
    folder = make_run()
    append(folder / "devices.jsonl", b"{}\n")
    with pytest.raises(RunFolderError, match=r"devices\.jsonl, line 10 is damaged.*`round`"):
        read_run(folder)


def test_a_round_recorded_twice_is_refused(make_run: MakeRun) -> None:
    """Its bytes would count twice."""
    folder = make_run()
    append(folder / "rounds.jsonl", json.dumps(round_line(3, 0.85)).encode() + b"\n")
    with pytest.raises(RunFolderError, match="round 3 comes after round 3"):
        read_run(folder)


def test_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"does not exist.*fedfit run"):
        read_run(tmp_path / "nowhere")


def test_other_folder_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"lacks recipe\.toml and rounds\.jsonl.*fedfit run"):
        read_run(tmp_path)


def test_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is not a folder"):
        read_run(tmp_path / "file")


def test_no_finished_round_says_how_to_go_on(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "rounds.jsonl").write_bytes(b'{"round": 0')
    with pytest.raises(RunFolderError, match=r"no finished round yet.*fedfit resume"):
        read_run(folder)


def test_parts_that_may_be_missing(make_run: MakeRun) -> None:
    folder = make_run()
    for name in ("environment.json", "devices.jsonl", "partition.json"):
        (folder / name).unlink()
    run = read_run(folder)
    assert (run.environment, run.devices, run.partition) == ({}, [], None)
    assert run.device_count == 3  # from the recipe


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.toml", "name = "),
        ("environment.json", "{"),
        ("environment.json", "[]"),
        ("partition.json", '{"labels": ["a"]}'),
        ("partition.json", '{"labels": ["a", "b"], "counts": [[1]]}'),
        ("partition.json", '{"labels": ["a"], "counts": [["1"]]}'),
    ],
)
def test_damaged_file_is_named(make_run: MakeRun, name: str, content: str) -> None:
    folder = make_run()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=f"{name} is damaged"):
        read_run(folder)


def test_equal_names_are_told_apart(make_run: MakeRun) -> None:
    runs = [
        read_run(make_run("a/first", name="same")),
        read_run(make_run("b/first", name="same")),
        read_run(make_run("second", name="same")),
        read_run(make_run("third", name="other")),
    ]
    names = display_names(runs)
    assert names[2:] == ["same (second)", "other"]
    assert names[0].endswith("a/first)")
    assert names[1].endswith("b/first)")
