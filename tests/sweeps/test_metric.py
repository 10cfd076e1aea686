"""Metrics by name, and the rows on which they decide."""

import math
from dataclasses import replace
from typing import Any

import pytest

from fedfit.errors import RecipeError
from fedfit.reports.read import RunData
from fedfit.sweeps.metric import Metric, names_in
from fedfit.sweeps.rows import row_of
from tests.sweeps.test_comparison_rows import made_up_run, main


def with_validation(values: tuple[float | None, ...]) -> RunData:
    run = made_up_run()
    for line, value in zip(run.rounds, values, strict=True):
        line["validation_accuracy"] = value
    return run


def test_key_label_and_text() -> None:
    assert (Metric().key, Metric().label, Metric().shown(0.8614)) == ("test_accuracy", "Test accuracy (%)", "86.1 %")
    loss = Metric("loss", "validation")
    assert (loss.key, loss.label, loss.shown(0.34567)) == ("validation_loss", "Validation loss", "0.3457")


@pytest.mark.parametrize(("value", "read"), [(0.5, 0.5), (None, math.nan)])
def test_a_value_that_was_not_measured_is_nan(value: float | None, read: float) -> None:
    assert Metric("mcc").of({"test_mcc": value}) == pytest.approx(read, nan_ok=True)


def test_an_unknown_metric_is_reported_with_the_known_ones() -> None:
    line: dict[str, Any] = {"round": 0, "test_accuracy": 0.5, "test_loss": 1.0, "validation_accuracy": 0.4, "train_loss": 1.0}
    assert names_in(line) == ["accuracy", "loss"]
    with pytest.raises(RecipeError, match=r"--metric = 'mcc': .* they measure accuracy, loss"):
        Metric("mcc").of(line)


def test_a_round_without_evaluation_has_no_value() -> None:
    """With evaluation.every above 1 most lines have no metric; they must not stop a sweep."""
    assert math.isnan(Metric().of({"round": 1, "train_loss": 0.5}))
    assert Metric().of({"round": 2, "test_accuracy": 0.5, "test_loss": 1.0}) == 0.5
    assert math.isnan(Metric().of({"round": 3, "test_accuracy": None, "test_loss": None}))


def test_a_part_that_no_round_measured_is_a_fault() -> None:
    with pytest.raises(RecipeError, match=r"they measure no metric on personal rows"):
        Metric(part="personal").series(made_up_run())


def test_a_run_without_a_validation_part_decides_on_test_rows() -> None:
    assert Metric().deciding(made_up_run()) == Metric()
    assert Metric().deciding(with_validation((None,) * 5)) == Metric()


def test_the_validation_part_decides_when_the_target_is_reached() -> None:
    """Test rows reach 80 % in round 2, the validation part in round 3: 1 + 2 + 3 s. The final value is on test rows."""
    run = with_validation((0.2, 0.5, 0.7, 0.85, 0.9))
    assert Metric().deciding(run) == Metric(part="validation")
    sweep = main()
    found = row_of(sweep, sweep.points[0], 0, run)
    assert (found.values["rounds_to_target"], found.values["seconds_to_target"]) == (3, 6.0)
    assert (found.final, found.values["final_accuracy"]) == (0.9, 0.9)
    on_validation = replace(sweep, metric=Metric(part="validation"))
    assert row_of(on_validation, sweep.points[0], 0, with_validation((0.2, 0.5, 0.7, 0.85, 0.6))).final == 0.6
