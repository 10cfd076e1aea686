"""Metrics of any name: the headline, units, directions, and rounds without evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedfit.errors import RunFolderError
from fedfit.reports.captions import caption
from fedfit.reports.curves import groups
from fedfit.reports.figures import figures_of
from fedfit.reports.html import write_html
from fedfit.reports.metrics import Measure
from fedfit.reports.overlay import comparisons
from fedfit.reports.read import RunData, common_metric, read_run
from fedfit.reports.tables import best_round, compare_table, run_table, status, summary_rows

from .conftest import MakeRun, rewrite_rounds, without_metrics, write_lines
from .test_tables import shown


def with_task(folder: Path, **task: Any) -> Path:
    (folder / "task.json").write_text(json.dumps(task))
    return folder


def measuring(folder: Path, **values: tuple[float | None, ...]) -> RunData:
    """The run in ``folder`` with these metrics in place of its own, one value per round."""
    return read_run(
        rewrite_rounds(folder, lambda row: without_metrics(row) | {k: each[row["round"]] for k, each in values.items()})
    )


PERSONAL = {
    "personal_accuracy_mean": (0.25, 0.5, 0.6, 0.7),
    "personal_accuracy_worst": (0.0, 0.1, 0.2, 0.3),
    "personal_accuracy_spread": (0.1, 0.1, 0.1, 0.1),
    "personal_loss_mean": (1.5, 1.2, 1.1, 1.0),
}


@pytest.mark.parametrize(
    ("key", "part", "name", "ending", "heading", "axis", "written"),
    [
        ("test_accuracy", "test", "accuracy", "", "Accuracy", "Test accuracy (%)", "50.00 %"),
        ("test_macro_f1", "test", "macro_f1", "", "Macro-F1", "Test macro-F1 (%)", "50.00 %"),
        ("test_loss", "test", "loss", "", "Test loss", "Test loss (nats)", "0.5000"),
        ("test_mcc", "test", "mcc", "", "MCC", "Test MCC", "0.5"),
        ("test_answer_accuracy", "test", "answer_accuracy", "", "Answer accuracy", "Test answer accuracy (%)", "50.00 %"),
        ("test_rouge_l", "test", "rouge_l", "", "ROUGE-L", "Test ROUGE-L (%)", "50.00 %"),
        ("test_perplexity", "test", "perplexity", "", "Perplexity", "Test perplexity", "0.5"),
        ("test_bits_per_byte", "test", "bits_per_byte", "", "Bits/byte", "Test bits per byte", "0.5"),
        (
            "test_preference_margin", "test", "preference_margin", "",
            "Preference margin", "Test preference margin (nats)", "0.5",
        ),
        ("test_kl", "test", "kl", "", "KL", "Test KL (nats a response token)", "0.5"),
        ("test_my_own", "test", "my_own", "", "My own", "Test my own", "0.5"),
        ("validation_accuracy", "validation", "accuracy", "", "Validation accuracy", "Validation accuracy (%)", "50.00 %"),
        (
            "personal_accuracy_worst", "personal", "accuracy", "worst",
            "Personal accuracy worst", "Personal accuracy, worst device (%)", "50.00 %",
        ),
        ("personal_others_loss_mean", "personal", "others_loss", "mean", "Personal loss on others' samples mean",
         "Personal loss on others' samples, mean over devices (nats)", "0.5000"),
        ("fused_others_accuracy_worst", "fused", "others_accuracy", "worst", "Fused accuracy on others' samples worst",
         "Fused accuracy on others' samples, worst device (%)", "50.00 %"),
        ("shared_bits_per_byte_mean", "shared", "bits_per_byte", "mean",
         "Shared bits/byte mean", "Shared bits per byte, mean over devices", "0.5"),
    ],
)  # fmt: skip
def test_a_full_name_is_split(key: str, part: str, name: str, ending: str, heading: str, axis: str, written: str) -> None:
    found = Measure.of(key)
    assert (found.part, found.name, found.ending) == (part, name, ending)
    assert (found.heading, found.axis, found.written(0.5)) == (heading, axis, written)
    assert (found.written(None), found.written(math.nan)) == ("–", "–")


def test_the_task_sets_the_headline(make_run: MakeRun) -> None:
    folder = make_run()
    assert read_run(folder).headline == "test_accuracy"
    assert read_run(with_task(folder, headline="macro_f1")).headline == "test_macro_f1"
    assert measuring(make_run("own"), **PERSONAL).headline == "personal_accuracy_mean"
    assert measuring(make_run("loss"), test_loss=(4.0, 3.0, 2.0, 1.0)).headline == "test_loss"
    assert measuring(make_run("other"), test_loss=(4.0,) * 4, test_bleu=(1.0,) * 4).headline == "test_bleu"


def test_lower_may_be_better(make_run: MakeRun) -> None:
    """Perplexities of 40, 20, 10, 12: round 2 is best. The task sets the direction of a metric with an unknown name."""
    values = (40.0, 20.0, 10.0, 12.0)
    run = measuring(with_task(make_run(), headline="perplexity"), test_perplexity=values)
    summary = summary_rows(run)
    assert (summary["metric"], summary["final_perplexity"], summary["best_perplexity"], summary["best_round"]) == (
        "test_perplexity", 12.0, 10.0, 2,
    )  # fmt: skip
    task = {"headline": "edits", "metrics": {"edits": {"higher_is_better": False}}}
    for folder, best in ((make_run("unsaid"), 0), (with_task(make_run("said"), **task), 2)):
        run = measuring(folder, test_edits=values)
        found = best_round(run, "test_edits")
        assert found is not None
        assert found["round"] == best
    assert "Edits" in shown(run_table(run))


def test_metrics_of_one_unit_share_a_figure(make_run: MakeRun) -> None:
    run = measuring(make_run(), test_accuracy=(0.5,) * 4, test_mcc=(0.1,) * 4, test_loss=(1.0,) * 4, **PERSONAL)
    assert {group.name: [measure.key for measure in group.measures] for group in groups(run)} == {
        "accuracy": ["test_accuracy", "personal_accuracy_mean", "personal_accuracy_worst"],
        "mcc": ["test_mcc"],
        "loss": ["test_loss", "personal_loss_mean"],
    }
    names = list(figures_of(run))
    assert names[:3] == ["accuracy", "loss", "mcc"]
    axes = figures_of(run)["accuracy"](run).axes[0]
    assert axes.get_lines()[1].get_label() == "personal accuracy, mean over devices"
    assert list(axes.get_lines()[1].get_ydata()) == pytest.approx([25, 50, 60, 70])
    assert "each device's own model" in caption(run, "accuracy")[1]


def test_a_round_without_evaluation_has_dashes_and_no_point(make_run: MakeRun) -> None:
    """Only rounds 0 and 2 are evaluated: the curve goes from 0 to 2, and round 2 is final and best."""
    folder = rewrite_rounds(make_run(), lambda row: without_metrics(row) if row["round"] % 2 else row)
    run = read_run(folder)
    summary = summary_rows(run)
    assert (summary["final_accuracy"], summary["best_round"], summary["test_loss"]) == (0.9, 2, pytest.approx(0.6))
    line, *_ = figures_of(run)["accuracy"](run).axes[0].get_lines()
    assert list(line.get_xdata()) == [0, 2]
    assert list(line.get_ydata()) == pytest.approx([25, 90])
    loss = figures_of(run)["loss"](run).axes[0].get_lines()[1]
    assert list(loss.get_xdata()) == [0, 1, 2, 3], "every round has a training loss"
    (compared,) = comparisons([run])["compare_bytes"]([run]).axes[0].get_lines()
    assert list(compared.get_xdata()) == [0, 18]
    assert [row.count("–") for row in shown(run_table(run)).splitlines() if row.strip().startswith(("0", "1", "2"))][:3] == [
        1, 3, 0,
    ]  # fmt: skip
    page = write_html(run, [], folder / "report.html").read_text()
    assert "after round 2" in page
    assert "90.00 %" in page


def test_a_value_that_is_not_finite_leaves_a_gap(make_run: MakeRun) -> None:
    """The value is null, unlike in a round without evaluation: the line has a gap, and the final value is ``None``."""
    run = measuring(make_run(), test_accuracy=(0.2, None, 0.4, None))
    (line, _) = figures_of(run)["accuracy"](run).axes[0].get_lines()
    assert [math.isnan(value) for value in line.get_ydata()] == [False, True, False, True]
    assert summary_rows(run)["final_accuracy"] is None


@pytest.mark.filterwarnings("error")
def test_a_run_with_metrics_of_devices_only(make_run: MakeRun) -> None:
    """A run that only measures each device's own model has tables, page and curves."""
    folder = make_run()
    run = measuring(folder, **PERSONAL)
    text = shown(run_table(run), width=80)
    assert "…" not in text
    assert "70.00 %" in text
    assert "30.00 %" in text, "the worst device is beside the mean"
    assert "70.00" in shown(compare_table([run]), width=80)
    assert list(comparisons([run])) == [
        "compare_accuracy", "compare_loss", "compare_bytes",
        *(f"compare_{name}_{over}" for over in ("time", "energy") for name in ("accuracy", "loss")),
    ]  # fmt: skip
    page = write_html(run, [], folder / "report.html").read_text()
    assert "Personal accuracy, mean over devices" in page
    assert "Personal accuracy spread" in page


def test_runs_are_compared_by_a_metric_that_all_have(make_run: MakeRun) -> None:
    alone = measuring(make_run("alone"), **PERSONAL)
    both = measuring(make_run("both"), test_accuracy=(0.5,) * 4, **PERSONAL)
    assert common_metric([both, both]) == "test_accuracy"
    assert common_metric([both, alone]) == common_metric([alone, both]) == "personal_accuracy_mean"


def test_a_target_on_validation_rows_decides(make_run: MakeRun) -> None:
    """Test accuracy 0.9 is above the target 0.8; validation accuracy, which decides, is below it."""
    folder = make_run(planned=10, target=0.8)
    assert status(measuring(folder, test_accuracy=(0.9,) * 4, validation_accuracy=(0.7,) * 4)) == "unfinished"
    assert status(measuring(folder, test_accuracy=(0.1,) * 4, validation_accuracy=(0.8,) * 4)) == "target accuracy reached"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("task.json", "[]", "it is not a JSON object"),
        ("task.json", '{"headline": 5}', "`headline`"),
        ("task.json", '{"metrics": {"accuracy": true}}', "`metrics`"),
        ("task.json", '{"a":' * 100_000, ""),
        ("evaluation.json", "{", ""),
        ("scores.jsonl", '{"round": 1, "device": 0}\n', "line 1 is damaged.*`samples`"),
        ("scores.jsonl", '{"round": 1, "device": 0, "samples": 3, "personal_accuracy": "x"}\n', "`personal_accuracy`"),
    ],
)
def test_damaged_files_are_named(name: str, content: str, said: str, make_run: MakeRun) -> None:
    folder = make_run()
    (folder / name).write_text(content)
    with pytest.raises(RunFolderError, match=rf"{name}.*{said}"):
        read_run(folder)


def test_a_metric_that_is_no_number_is_named(make_run: MakeRun) -> None:
    folder = rewrite_rounds(make_run(), lambda row: row | {"validation_accuracy": "high"})
    with pytest.raises(RunFolderError, match=r"line 1 is damaged.*`validation_accuracy` must be a number or null"):
        read_run(folder)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("devices", [1, 3, 500])
def test_scores_by_device_are_drawn(devices: int, make_run: MakeRun) -> None:
    """Device i of n scores i/n; scores of an older round and of an unfinished round are not drawn."""
    folder = make_run()
    rows = [
        {"round": count, "device": device, "samples": 4, "shared_accuracy": device / devices, "shared_loss": 1.0}
        for count in (2, 3, 4)
        for device in range(devices)
    ]
    write_lines(folder / "scores.jsonl", [row | ({"shared_accuracy": 0.99} if row["round"] != 3 else {}) for row in rows])
    run = read_run(folder)
    figure = figures_of(run)["by_device"](run)
    figure.canvas.draw()
    axes = figure.axes[0]
    values = [bar.get_height() for bar in axes.containers[0]] if devices <= 3 else list(axes.patches[0].get_data().values)
    assert values == pytest.approx([100 * device / devices for device in range(devices)])
    mean = 100 * (devices - 1) / 2 / devices
    assert axes.get_legend().get_texts()[0].get_text() == f"mean over devices, {mean:.4g} %"
