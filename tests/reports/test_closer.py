"""The evaluation of the final model in the report: confusion matrix, classes, and wrong predictions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedfit.errors import RunFolderError
from fedfit.reports.figures import figures_of
from fedfit.reports.html import write_html
from fedfit.reports.page import CSS
from fedfit.reports.read import read_run
from fedfit.reports.report import write_report

from .conftest import LABELS, MakeRun

CONFUSION = [[8, 2, 0, 0], [0, 5, 5, 0], [0, 0, 10, 0], [1, 1, 1, 0]]


def evaluation(**changes: Any) -> dict[str, Any]:
    classes = [
        {"label": name, "samples": 10, "predicted": 9, "precision": 0.5, "recall": 0.25, "f1": 1 / 3} for name in LABELS[:3]
    ]
    nobody = {"label": LABELS[3], "samples": 0, "predicted": 0, "precision": None, "recall": None, "f1": None}
    error = {"row": 4, "text": "<b>bold</b> news", "true": "World", "predicted": "Sports", "probability": 0.987}
    made = {"round": 3, "set": "test", "samples": 33, "labels": LABELS, "confusion": CONFUSION}
    return made | {"classes": [*classes, nobody], "errors": [error]} | changes


def looked_at(folder: Path, **changes: Any) -> Path:
    (folder / "evaluation.json").write_text(json.dumps(evaluation(**changes)))
    return folder


def page_of(folder: Path) -> str:
    return write_html(read_run(folder), [], folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("error")
def test_the_matrix_is_drawn_with_counts_and_shares(make_run: MakeRun) -> None:
    run = read_run(looked_at(make_run()))
    figure = figures_of(run)["confusion"](run)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.images[0].get_array()[1].tolist() == [0, 50, 50, 0]
    assert [text.get_text() for text in axes.texts][:4] == ["8", "2", "0", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == LABELS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 14, 25, 150])
def test_any_number_of_classes_draws(classes: int, make_run: MakeRun) -> None:
    names = [f"$ class _{number} {'long ' * 9}" for number in range(classes)]
    folder = looked_at(make_run(), labels=names, confusion=[[number] * classes for number in range(classes)])
    run = read_run(folder)
    figure = figures_of(run)["confusion"](run)
    figure.canvas.draw()
    assert (len(figure.axes[0].texts) > 0) == (classes <= 15)


def test_the_page_has_classes_and_errors(make_run: MakeRun) -> None:
    page = write_report(looked_at(make_run()))[-1].read_text(encoding="utf-8")
    for expected in ("Confusion matrix", "<h2>Classes</h2>", "<h2>Confidently wrong</h2>", "98.70 %", "33.33 %"):
        assert expected in page
    assert "&lt;b&gt;bold&lt;/b&gt; news" in page
    assert ">Pair<" not in page
    assert ">Pair<" in page_of(looked_at(make_run("pairs"), errors=[{"text": "a", "pair": "b", "true": "x"}]))


def test_texts_break_anywhere_and_class_names_between_words(make_run: MakeRun) -> None:
    """A class name broken in mid-word is hard to read; one longer than its column still breaks, so that the page fits."""
    page = page_of(looked_at(make_run(), errors=[{"text": "a", "pair": "b", "true": "x", "predicted": "y"}]))
    for cell in ('<td class="text">a<', '<td class="text">b<', '<td class="label">x<', '<td class="label">y<'):
        assert cell in page
    assert f'<td class="label">{LABELS[0]}<' in page
    rules = dict(re.findall(r"^(.+?) \{ (.+) \}$", CSS, re.MULTILINE))
    assert "overflow-wrap: anywhere" in rules["table.text td, td.text"]
    assert rules["td.label"] == "max-width: 14rem; overflow-wrap: break-word;"


def test_an_evaluation_without_classes_has_no_section_for_them(make_run: MakeRun) -> None:
    """A language model's evaluation has no classes."""
    folder = make_run()
    (folder / "evaluation.json").write_text('{"round": 3, "perplexity": 12.5}')
    run = read_run(folder)
    assert figures_of(run)["confusion"](run) is None
    assert "Classes" not in page_of(folder)
    assert "Confidently" not in page_of(make_run("unfinished"))


@pytest.mark.parametrize(
    "changes",
    [
        {"confusion": [[1, 2]]},
        {"confusion": [["1"] * 4] * 4},
        {"labels": "abcd"},
        {"errors": {"text": "a"}},
        {"errors": [{"probability": "high"}]},
        {"classes": [{"precision": "x"}]},
    ],
)
def test_a_damaged_evaluation_is_named(changes: dict[str, Any], make_run: MakeRun) -> None:
    folder = looked_at(make_run(), **changes)
    with pytest.raises(RunFolderError, match=r"evaluation\.json is damaged"):
        write_report(folder)
