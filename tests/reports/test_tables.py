from __future__ import annotations

import json

import pytest
from rich.console import Console
from rich.table import Table

from fedfit.reports.metrics import format_loss, format_share
from fedfit.reports.read import read_run
from fedfit.reports.tables import compare_json, compare_table, run_table, summary_rows

from .conftest import MakeRun


def shown(table: Table, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_summary_numbers(make_run: MakeRun) -> None:
    """Accuracies 0.25, 0.80, 0.90, 0.85; 3 rounds of 3 devices, 1,000 bytes up and 2,000 down each; 0.5 s + 3 · 2 s.

    In round 3 one device is refused and sends nothing: 3 · 3,000 − 1,000 bytes.
    """
    assert summary_rows(read_run(make_run(refused={1: "loss is nan"}))) == {
        "name": "agnews-minilm",
        "rounds": 3,
        "rounds_planned": 3,
        "devices": 3,
        "metric": "test_accuracy",
        "final_accuracy": 0.85,
        "best_accuracy": 0.90,
        "best_round": 2,
        "test_accuracy": 0.85,
        "test_macro_f1": pytest.approx(0.84),
        "test_loss": pytest.approx(0.65),
        "uplink_bytes": 8_000,
        "downlink_bytes": 18_000,
        "seconds": 6.5,
        "simulated_s": None,
        "simulated_j": None,
        "refused": 1,
    }


def test_first_of_equals_is_best(make_run: MakeRun) -> None:
    assert summary_rows(read_run(make_run(accuracies=(0.2, 0.9, 0.9))))["best_round"] == 1


def test_untrained_model_alone(make_run: MakeRun) -> None:
    summary = summary_rows(read_run(make_run(accuracies=(0.25,))))
    assert (summary["rounds"], summary["best_round"], summary["uplink_bytes"]) == (0, 0, 0)


def test_a_missing_value_is_none_and_a_dash(make_run: MakeRun) -> None:
    folder = make_run(accuracies=(None, None))
    text = (folder / "rounds.jsonl").read_text().replace('"test_loss": null', '"test_loss": NaN')
    (folder / "rounds.jsonl").write_text(text)
    run = read_run(folder)
    summary = summary_rows(run)
    assert (summary["final_accuracy"], summary["best_accuracy"], summary["test_loss"]) == (None, None, None)
    json.dumps(compare_json([run]), allow_nan=False)
    assert "–" in shown(compare_table([run]))


def test_formats() -> None:
    assert (format_share(0.88534), format_share(None), format_loss(0.34567)) == ("88.53 %", "–", "0.3457")


def test_run_table_has_a_line_a_round_and_totals(make_run: MakeRun) -> None:
    text = shown(run_table(read_run(make_run())))
    assert "90.00 %" in text
    assert "9.0 kB" in text  # uplink in total: 3 rounds · 3 devices · 1,000 bytes
    assert "6.5 s" in text


def test_long_run_leaves_out_its_middle(make_run: MakeRun) -> None:
    """Rounds 0 to 100: the first five are 0–4, the last fifteen 86–100, with one line for the omitted rounds."""
    table = run_table(read_run(make_run(accuracies=[0.5] * 101, planned=100, devices=1)))
    assert list(table.columns[0].cells) == [*"01234", "…", *map(str, range(86, 101))]


def test_tables_fit_eighty_columns(make_run: MakeRun) -> None:
    """A cell that is too wide would end in an ellipsis or add lines to title, heading, rule, rounds and footer."""
    run = read_run(make_run(accuracies=(0.2512, 0.8834), refused={1: "loss is nan"}))
    text = shown(run_table(run), width=80)
    assert "…" not in text
    assert len(text.splitlines()) == 1 + 2 + 1 + 2 + 2
    assert "…" not in shown(compare_table([run, run]), width=80)


def test_refused_has_a_column_only_if_an_update_was_refused(make_run: MakeRun) -> None:
    quiet, loud = read_run(make_run("quiet")), read_run(make_run("loud", refused={1: "loss is nan"}))
    for table in (run_table, lambda run: compare_table([run])):
        assert "Refused" not in shown(table(quiet))
        assert "Refused" in shown(table(loud))


def test_markup_in_a_name_is_text(make_run: MakeRun) -> None:
    run = read_run(make_run(name="[red]odd[/blue]"))
    assert "[red]odd[/blue]" in shown(run_table(run))
    assert "[red]odd[/blue]" in shown(compare_table([run]))


def test_compare_keeps_the_order_and_makes_names_distinct(make_run: MakeRun) -> None:
    runs = [read_run(make_run("one")), read_run(make_run("two", planned=5))]
    assert [row["name"] for row in compare_json(runs)] == ["agnews-minilm (one)", "agnews-minilm (two)"]
    text = shown(compare_table(runs))
    assert "agnews-minilm (two)" in text
    assert "3/5" in text
    assert "90.00" in text
