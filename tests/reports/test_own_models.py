"""The devices' own models in a report: numbers by hand, and figures that hold what they say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfit.reports.captions import caption
from fedfit.reports.columns import round_columns
from fedfit.reports.curves import groups
from fedfit.reports.figures import FIGURES, write_figures
from fedfit.reports.own_models import OwnModels, draw_own_gain, draw_own_models, own_table, skew
from fedfit.reports.read import RunData
from fedfit.reports.style import drawing

SHARED, PERSONAL, FUSED = (0.5, 0.8, 0.6), (0.7, 0.7, 0.6), (0.9, 0.7, 0.5)
FACTS = [
    {"weight_personal": 0.5, "weight_shared": 0.25},
    {"weight_personal": 0.7, "weight_shared": -0.5},
    {"not_fused": "too few samples"},
]


def made(models: tuple[str, ...] = ("shared", "personal", "fused"), copies: int = 1, name: str = "accuracy") -> RunData:
    """Three devices, ``copies`` times, with classes (4, 0), (2, 2) and (0, 8)."""
    values = {"shared": SHARED, "personal": PERSONAL, "fused": FUSED}
    scores, count = [], 3 * copies
    for device in range(count):
        own = {f"{model}_{name}": values[model][device % 3] for model in models}
        facts = {"facts": FACTS[device % 3]} if "fused" in models else {}
        scores.append({"round": 1, "device": device, "samples": 10, **own, **facts})
    last: dict[str, Any] = {"round": 1, "test_" + name: 0.4, "train_loss": 1.0}
    for model in models:
        mine = np.array([score[f"{model}_{name}"] for score in scores])
        summary = {"mean": mine.mean(), "worst": mine.min(), "p10": np.percentile(mine, 10), "spread": mine.std()}
        last |= {f"{model}_{name}_{ending}": float(value) for ending, value in summary.items()}
    first = {**dict.fromkeys(last, 0.1), "round": 0, "train_loss": None}
    sent = {"uplink_bytes": 1, "downlink_bytes": 1, "seconds": 1.0, "devices": count, "refused": 0}
    return RunData(
        folder=Path("run"),
        name="made",
        recipe={},
        environment={},
        rounds=[first | sent, last | sent],
        devices=[],
        partition={"labels": ["a", "b"], "counts": [[4, 0], [2, 2], [0, 8]] * copies},
        scores=scores,
    )


def test_the_skew_by_hand() -> None:
    """Everyone: 6 of 16 and 10 of 16. (1, 0) is 10/16 away, (1/2, 1/2) 2/16, (0, 1) 6/16."""
    counts = np.array([[4.0, 0.0], [2.0, 2.0], [0.0, 8.0]])
    np.testing.assert_allclose(skew(counts, counts), [10 / 16, 2 / 16, 6 / 16])


def test_gain_and_the_best_by_hand() -> None:
    own = OwnModels.of(made())
    assert own is not None
    np.testing.assert_allclose(own.gain, [40.0, -10.0, -10.0])
    assert [own.best_in(model) for model in own.values] == [2, 1, 1], "in device 2 shared and personal are level"
    losses = OwnModels.of(made(name="loss"))
    assert losses is not None
    np.testing.assert_allclose(losses.gain, [-0.4, 0.1, 0.1])
    assert [losses.best_in(model) for model in losses.values] == [1, 1, 2]


def test_the_table_has_the_records_numbers_and_the_fusions_weights() -> None:
    columns, rows, note = own_table(made())
    cells = [[column.cell(row) for column in columns] for row in rows]
    assert [column.heading for column in columns] == ["Model", "Mean", "Worst device", "10th percentile", "Spread", "Best in"]
    assert cells[2][:3] == ["fused", "70.00 %", "50.00 %"]
    assert [line[-1] for line in cells] == ["2 of 3", "1 of 3", "1 of 3"]
    assert "weight of the personal adapter 0.60 (0.50 to 0.70)" in note
    assert "weight of the shared adapter -0.12 (-0.50 to 0.25)" in note
    assert "Not fused in 1 of 3: too few samples." in note
    assert own_table(made(("personal",))) == ([], [], "")
    assert own_table(made(("shared", "personal")))[2] == ""


def test_the_figures_hold_every_model_and_device() -> None:
    run = made()
    with drawing():
        left, right = draw_own_models(run).axes
        assert [line.get_label() for line in left.get_lines()][:2] == ["shared, mean", "shared, worst device"]
        np.testing.assert_allclose(right.get_lines()[2].get_ydata(), [50, 70, 90])
        samples, skewed = draw_own_gain(run).axes
    np.testing.assert_allclose(sorted(samples.collections[0].get_offsets()[:, 0]), [4, 4, 8])
    np.testing.assert_allclose(skewed.collections[0].get_offsets().data, [(10 / 16, 40), (2 / 16, -10), (6 / 16, -10)])


@pytest.mark.parametrize("copies", [1, 400])
def test_they_are_drawn_for_three_devices_and_for_a_thousand(copies: int, tmp_path: Path) -> None:
    write_figures(made(copies=copies), tmp_path)
    assert {"own_models.svg", "own_gain.svg"} <= {path.name for path in tmp_path.iterdir()}
    for name in ("own_models", "own_gain"):
        title, words = caption(made(), name)
        assert name in FIGURES
        assert title
        assert words


def test_a_run_with_one_model_a_device_has_none_of_it() -> None:
    run = made(("personal",))
    assert draw_own_models(run) is None
    assert draw_own_gain(run) is None
    assert {measure.part for group in groups(run) for measure in group.measures} == {"test", "personal"}


def test_without_classes_there_is_no_skew() -> None:
    run = replace(made(), task={"kind": "instruction", "headline": "accuracy"})
    with drawing():
        assert len(draw_own_gain(run).axes) == 1


def test_curves_and_tables_show_the_model_that_is_used() -> None:
    run = made()
    (group,) = groups(run)
    assert [measure.key for measure in group.measures] == ["test_accuracy"]
    headings = [column.heading for column in round_columns(run, narrow=True)]
    assert headings[1:4] == ["Accuracy", "Fused accuracy mean", "Fused accuracy worst"]
    assert not any("p10" in column.heading for column in round_columns(run, narrow=False))
