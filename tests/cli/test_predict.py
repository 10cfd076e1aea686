"""``fedfit predict`` as a person calls it: their own rows, with two columns more."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from fedfit.cli import app
from tests.cli.command import fedfit, refused
from tests.trajectories.world import World, lines

PLAIN = ("plan=", "fleet=", "channel=")
"""Overrides that take the plan out of the world's recipe."""


def table(text: str, separator: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=separator))


def accuracy(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["prediction"] == row["label"] for row in rows) / len(rows))


def test_the_columns_stay_and_the_accuracy_is_that_of_the_run(world: World, finished: Path) -> None:
    answer = fedfit("predict", finished, "--input", world.test)
    assert answer.status == 0, answer.stderr
    rows, given = table(answer.stdout), table(world.test.read_text())
    assert [{"text": row["text"], "label": row["label"]} for row in rows] == given
    assert list(rows[0]) == ["text", "label", "prediction", "probability"]
    assert accuracy(rows) == pytest.approx(lines(finished / "rounds.jsonl")[-1]["test_accuracy"], abs=1e-9)
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


WRITE: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "json": lambda frame, path: frame.to_json(path, orient="records"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path),
}
READ: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    "tsv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t"),
    "json": lambda path: pd.DataFrame(json.loads(path.read_text())),
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "parquet": pd.read_parquet,
}


@pytest.mark.parametrize("written", WRITE)
@pytest.mark.parametrize("read", READ)
def test_every_format_in_and_out(written: str, read: str, world: World, finished: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(world.test).head(5).assign(number=[1, 2, 3, 4, 5], share=[0.1234567891, 2.5, 3.5, 4.5, 0.25])
    WRITE[written](frame, tmp_path / f"in.{written}")
    out = tmp_path / f"out.{read}"
    answer = fedfit("predict", finished, "--input", tmp_path / f"in.{written}", "--output", out)
    assert (answer.status, answer.stdout) == (0, ""), answer.stderr
    assert answer.stderr.endswith(f"5 rows: {out}\n")
    found = READ[read](out)
    assert list(found.columns) == [*frame.columns, "prediction", "probability"]
    assert [{name: str(cell) for name, cell in row.items()} for row in found[frame.columns].to_dict("records")] == [
        {name: str(cell) for name, cell in row.items()} for row in frame.to_dict("records")
    ]
    whole = table(fedfit("predict", finished, "--input", world.test).stdout)[:5]
    assert found["prediction"].tolist() == [row["prediction"] for row in whole]
    assert [float(value) for value in found["probability"]] == pytest.approx([float(r["probability"]) for r in whole], abs=2e-6)


def test_types_and_objects_of_jsonl_stay(finished: Path, tmp_path: Path) -> None:
    rows = [{"text": "ab cd", "n": 1, "tags": ["x"], "none": None, "deep": {"a": 1.5}}, {"text": "ij", "n": 2.5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = fedfit("predict", finished, "--input", tmp_path / "in.jsonl")
    first, second = (json.loads(line) for line in answer.stdout.splitlines())
    assert {name: first[name] for name in rows[0]} == rows[0]
    assert (second["text"], second["n"], second["tags"], second["none"]) == ("ij", 2.5, None, None)


def test_standard_input_in_a_format_of_its_own(finished: Path) -> None:
    for kind, text in (
        ("csv", "text,id\nab cd,7\n"),
        ("tsv", "text\tid\nab cd\t7\n"),
        ("jsonl", '{"text": "ab cd", "id": "7"}'),
    ):
        options = [] if kind == "csv" else ["--format", kind]
        result = CliRunner().invoke(app, ["predict", str(finished), *options], input=text)
        assert result.exit_code == 0, result.stderr
        rows = [json.loads(result.stdout)] if kind == "jsonl" else table(result.stdout, "," if kind == "csv" else "\t")
        assert [(row["text"], row["id"], "prediction" in row) for row in rows] == [("ab cd", "7", True)]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.csv", "body,label\nab,art\n", ["data.text = 'text'", "in.csv", "no such column", "it has body, label"]),
        ("in.csv", "text,prediction\nab,art\n", ["in.csv has a column 'prediction' already; rename it"]),
        ("in.csv", "text,probability\nab,1\n", ["a column 'probability' already"]),
        ("in.csv", "", ["in.csv is empty"]),
        ("in.csv", "text,label\n", ["in.csv has no rows"]),
        ("in.csv", "text;label\nab;art\n", ["separated by semicolons"]),
        ("in.csv", "text\tlabel\nab\tart\n", ["separated by tabs", 'set --format to "tsv"']),
        ("in.jsonl", "{", ["in.jsonl, line 1 is not JSON"]),
        ("in.xlsx", "text\nab\n", ["--input", "in.xlsx", "'xlsx'", "choose one of csv, tsv, json, jsonl, parquet", "--format"]),
    ],
)
def test_rows_that_will_not_do(name: str, content: str, says: list[str], finished: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    refused("predict", finished, "--input", tmp_path / name, says=says)


def test_options_that_will_not_do(world: World, finished: Path, tmp_path: Path) -> None:
    call: list[str | Path] = ["predict", finished, "--input", world.test]
    refused("predict", finished, "--input", tmp_path / "no.csv", says=["no.csv: there is no such file"])
    refused(*call, "--format", "cvs", says=["--format cvs: did you mean 'csv'?"])
    refused(*call, "--output", tmp_path / "out.xls", says=["--output", "out.xls", "choose one of csv"])
    refused(*call, "--output", tmp_path / "no" / "out.csv", says=["out.csv cannot be written", "--output"])
    refused(*call, "--text", "txt", says=["--text = 'txt'", "did you mean 'text'"])
    refused(*call, "--pair", "label", says=["--pair label: the run was trained on single texts"])
    result = CliRunner().invoke(app, ["predict", str(finished)], input="")
    assert (result.exit_code, "standard input is empty" in result.stderr) == (2, True)


def test_columns_of_other_names(world: World, finished: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(world.test)
    frame.rename(columns={"text": "body"}).to_csv(tmp_path / "in.csv", index=False)
    rows = table(fedfit("predict", finished, "--input", tmp_path / "in.csv", "--text", "body").stdout)
    expected = table(fedfit("predict", finished, "--input", world.test).stdout)
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]


@pytest.mark.filterwarnings("error::FutureWarning")
def test_no_warning_of_the_libraries_is_shown(world: World, finished: Path) -> None:
    assert fedfit("predict", finished, "--input", world.test).status == 0


def test_a_folder_that_is_no_finished_run(world: World, tmp_path: Path) -> None:
    refused("predict", tmp_path, "--input", world.test, says=["is not a run folder"])
    (tmp_path / "recipe.toml").write_text("")
    refused("predict", tmp_path, "--input", world.test, says=["has no saved adapter", f"fedfit resume {tmp_path}"])


def test_sentence_pairs(world: World, tmp_path: Path) -> None:
    for name, source in (("train", world.train), ("test", world.test)):
        frame = pd.read_csv(source)
        frame.assign(second=frame["text"][::-1].tolist()).to_csv(tmp_path / f"{name}.csv", index=False)
    files = [f"data.{name}={tmp_path / f'{name}.csv'}" for name in ("train", "test")]
    run = world.run(tmp_path / "run", *files, "data.pair=second", *PLAIN)
    rows = table(fedfit("predict", run, "--input", tmp_path / "test.csv").stdout)
    assert accuracy(rows) == pytest.approx(lines(run / "rounds.jsonl")[-1]["test_accuracy"], abs=1e-9)
    refused("predict", run, "--input", world.test, says=["data.pair = 'second'", "no such column"])


def test_files_without_a_header(world: World, tmp_path: Path) -> None:
    for name, source in (("train", world.train), ("test", world.test)):
        pd.read_csv(source).to_csv(tmp_path / f"{name}.csv", index=False, header=False)
    files = [f"data.{name}={tmp_path / f'{name}.csv'}" for name in ("train", "test")]
    run = world.run(tmp_path / "run", *files, 'data.columns=["text", "label"]', *PLAIN, "federation.rounds=1")
    rows = table(fedfit("predict", run, "--input", tmp_path / "test.csv").stdout)
    assert len(rows) == 30
    assert accuracy(rows) == pytest.approx(lines(run / "rounds.jsonl")[-1]["test_accuracy"], abs=1e-9)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("fedsa_lora", "fedsa_lora keeps lora_B on the devices: the saved adapter is the shared part"),
        ("local_only", "local_only shares nothing: the saved adapter is the untrained start"),
        ("fedavg", ""),
    ],
)
def test_a_rule_with_private_parts_is_named_in_one_line(
    rule: str, says: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.run(tmp_path / "run", f"federation.rule={rule}", *PLAIN, "federation.rounds=1")
    caplog.clear()
    assert fedfit("predict", run, "--input", world.test).status == 0
    found = [record.message for record in caplog.records if record.name.startswith("fedfit")]
    assert [message[: len(says)] for message in found] == ([says] if says else [])
