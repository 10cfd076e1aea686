"""Reports on language models: answers side by side, units of their losses, and figures of metrics with other units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedfit.errors import RunFolderError
from fedfit.reports.answers import answers_of, answers_table
from fedfit.reports.captions import caption
from fedfit.reports.curves import groups
from fedfit.reports.figures import figures_of
from fedfit.reports.html import write_html
from fedfit.reports.read import RunData, read_run
from fedfit.reports.tables import run_table, status
from fedfit.sweeps.metric import Metric

from .conftest import MakeRun
from .test_metrics import measuring, with_task
from .test_tables import shown

ANSWERS = [
    {"prompt": f"say <b>{number}</b>", "before": "uy w " * 60, "after": f"it is {number}", "reference": "it is"}
    for number in range(12)
]
INSTRUCTION: dict[str, tuple[float | None, ...]] = {
    "test_loss": (6.0, 4.0, 3.0, 2.0),
    "test_perplexity": (400.0, 50.0, 20.0, 7.4),
    "test_answer_accuracy": (0.25, 0.4, 0.5, 0.6),
    "test_rouge_l": (0.0, 0.1, 0.2, 0.3),
}
PREFERENCE: dict[str, tuple[float | None, ...]] = {
    "test_preference_accuracy": (0.5, 0.6, 0.6, 0.7),
    "test_preference_margin": (0.0, 0.1, 0.2, 0.3),
    "test_kl": (0.0, 0.1, 0.2, 0.3),
    "test_loss": (0.69, 0.6, 0.5, 0.4),
}


def answered(folder: Path, answers: Any = ANSWERS) -> RunData:
    (folder / "evaluation.json").write_text(json.dumps({"round": 3, "set": "test", "samples": 33, "answers": answers}))
    return read_run(folder)


def instructed(folder: Path, **task: Any) -> RunData:
    return measuring(with_task(folder, kind="instruction", headline="answer_accuracy", **task), **INSTRUCTION)


def axes_of(run: RunData, name: str) -> Any:
    return figures_of(run)[name](run).axes[0]


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_page_has_all_answers_escaped_in_cells_that_wrap(make_run: MakeRun) -> None:
    run = answered(make_run())
    page = write_html(run, [], run.folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Answers</h2>" in page
    heads = "".join(f'<th class="text">{heading}</th>' for heading in ("Prompt", "Before", "After", "Reference"))
    assert heads in page
    assert page.count('<td class="text">say &lt;b&gt;') == 12
    assert "<b>11</b>" not in page
    other = write_html(read_run(make_run("other")), [], run.folder / "other.html").read_text(encoding="utf-8")
    assert "<h2>Answers</h2>" not in other


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_has_ten_answers_whole_at_any_width(width: int, make_run: MakeRun) -> None:
    text = shown(answers_table(answers_of(answered(make_run()))), width)
    assert max(map(len, text.splitlines())) <= width
    assert [f"it is {number}" in text for number in range(12)] == [True] * 10 + [False] * 2
    assert text.count("uy") == 600, "long texts wrap, they are not cut"
    assert "<b>3</b>" in text


@pytest.mark.parametrize("answers", [{"prompt": "a"}, ["a"], [{"prompt": 1}]])
def test_damaged_answers_are_named(answers: Any, make_run: MakeRun) -> None:
    with pytest.raises(RunFolderError, match=r"evaluation\.json is damaged.*`answers`"):
        answers_of(answered(make_run(), answers))


def test_the_table_of_a_run_shows_rouge_before_the_perplexity(make_run: MakeRun) -> None:
    """The loss has a column, and the perplexity says the same; without ROUGE-L it is shown all the same."""
    head = shown(run_table(instructed(make_run())), 80)
    assert "ROUGE-L" in head
    assert "Perplexity" not in head
    assert "30.00 %" in head
    without = {name: values for name, values in INSTRUCTION.items() if name != "test_rouge_l"}
    folder = with_task(make_run("other"), kind="instruction", headline="answer_accuracy")
    assert "Perplexity" in shown(run_table(measuring(folder, **without)), 80)


def test_bits_per_byte_has_a_heading_on_one_line(make_run: MakeRun) -> None:
    folder = with_task(make_run(), kind="language_modelling", headline="perplexity")
    values: dict[str, tuple[float | None, ...]] = {
        "test_loss": (2.0,) * 4, "test_perplexity": (7.4,) * 4, "test_bits_per_byte": (1.5,) * 4,
    }  # fmt: skip
    run = measuring(folder, **values)
    assert "Perplexity Bits/byte" in shown(run_table(run), 80)
    assert axes_of(run, "loss").get_ylabel() == "Cross-entropy (nats a token)"
    assert axes_of(run, "bits_per_byte").get_ylabel() == "Bits per byte"


def test_metrics_of_other_units_have_figures_of_their_own(make_run: MakeRun) -> None:
    run = instructed(make_run())
    assert {group.name: [measure.name for measure in group.measures] for group in groups(run)} == {
        "answer_accuracy": ["answer_accuracy", "rouge_l"],
        "loss": ["loss"],
        "perplexity": ["perplexity"],
    }
    assert axes_of(run, "answer_accuracy").get_ylabel() == "Answer accuracy and ROUGE-L (%)"
    assert axes_of(run, "loss").get_ylabel() == "Cross-entropy (nats a response token)"
    assert legend(axes_of(run, "loss")) == ["test", "training, mean over devices"]
    assert "mean cross-entropy of the global model" in caption(run, "loss")[1]


def test_perplexities_far_apart_have_a_logarithmic_axis_with_plain_numbers(make_run: MakeRun) -> None:
    far, near = instructed(make_run()), make_run("near")
    figure = figures_of(far)["perplexity"](far)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    ticks = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert {"10", "100"} <= set(ticks)
    narrow = measuring(with_task(near, kind="instruction", headline="perplexity"), test_perplexity=(10.0, 9.0, 8.0, 7.0))
    assert axes_of(narrow, "perplexity").get_yscale() == "linear"


def test_chance_is_drawn_where_a_guess_has_a_score(make_run: MakeRun) -> None:
    assert "chance, 1 of 4 classes" in legend(axes_of(read_run(make_run()), "accuracy"))
    with_choices = axes_of(instructed(make_run("choices"), choices=["a", "b", "c", "d", "e"]), "answer_accuracy")
    assert "chance, 1 of 5 choices" in legend(with_choices)
    assert with_choices.get_lines()[-1].get_ydata()[0] == 20
    assert not any("chance" in text for text in legend(axes_of(instructed(make_run("none")), "answer_accuracy")))
    folder = with_task(make_run("pairs"), kind="preference", headline="preference_accuracy")
    pairs = measuring(folder, **PREFERENCE)
    assert "chance, 1 of 2 responses" in legend(axes_of(pairs, "preference_accuracy"))
    assert not any("chance" in text for text in legend(axes_of(pairs, "preference_margin")))


def test_the_loss_of_preferences_has_the_name_of_its_kind(make_run: MakeRun) -> None:
    folder = with_task(make_run(), kind="preference", headline="preference_accuracy")
    assert axes_of(measuring(folder, **PREFERENCE), "loss").get_ylabel() == "DPO loss"
    with (folder / "recipe.toml").open("a") as file:
        file.write('[task]\nloss = "kto"\n')
    run = read_run(folder)
    assert axes_of(run, "loss").get_ylabel() == "KTO loss"
    assert axes_of(run, "kl").get_ylabel() == "KL (nats a response token)"


def test_the_tiles_have_the_unit_of_the_loss(make_run: MakeRun) -> None:
    run = instructed(make_run())
    page = write_html(run, [], run.folder / "report.html").read_text(encoding="utf-8")
    assert "<dt>Test loss</dt><dd>2.0000<small>nats a response token</small>" in page
    assert "<dt>ROUGE-L</dt><dd>30.00 %<small>after round 3</small>" in page


def test_patience_counts_the_first_metric_of_the_task(make_run: MakeRun) -> None:
    """Perplexity falls to round 1 and rises: patience 2 ended the run; by the loss, which falls on, it would be unfinished."""
    folder = with_task(make_run(planned=10), kind="instruction", headline="perplexity")
    with (folder / "recipe.toml").open("a") as file:
        file.write("patience = 2\n")
    values = {"test_perplexity": (9.0, 5.0, 6.0, 7.0), "test_loss": (4.0, 3.0, 2.0, 1.0)}
    assert status(measuring(folder, **values)) == "no longer improving"


def test_a_sweep_calls_metrics_by_the_same_words() -> None:
    assert (Metric("rouge_l").label, Metric("rouge_l").shown(0.4321)) == ("Test ROUGE-L (%)", "43.2 %")
    assert (Metric("perplexity").label, Metric("perplexity").shown(12.5346)) == ("Test perplexity", "12.53")
