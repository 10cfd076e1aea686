"""The choice of a learning rate, on made-up trials."""

import csv
import io
import math
from dataclasses import replace

import pytest

from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rate_search import Trial, best_rates, rates_csv, with_choice

RATES = (3e-4, 1e-3, 3e-3)


def trials(accuracies: tuple[float, ...], method: str = "a", source: str = "x") -> list[Trial]:
    return [Trial(source, method, rate, accuracy) for rate, accuracy in zip(RATES, accuracies, strict=True)]


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ((0.5, 0.7, 0.6), 1e-3),
        ((0.5, 0.6, 0.7), 3e-3),
        ((0.7, 0.6, 0.7), 3e-4),
        ((0.5, 0.7, 0.7), 1e-3),
        ((0.5, 0.5, 0.5), 3e-4),
        ((math.nan, 0.5, 0.4), 1e-3),
        ((0.5, 0.4, math.nan), 3e-4),
        ((math.nan, math.nan, math.nan), 3e-4),
    ],
)
def test_the_best_rate_is_chosen_the_lowest_of_equals(accuracies: tuple[float, ...], best: float) -> None:
    given = trials(accuracies)
    assert best_rates(given) == best_rates(given[::-1]) == {"a": best}


def test_each_method_and_data_set_has_its_own_rate() -> None:
    given = [
        *trials((0.9, 0.8, 0.7), "a", "x"), *trials((0.1, 0.2, 0.3), "b", "x"),
        *trials((0.7, 0.8, 0.7), "a", "y"),
    ]  # fmt: skip
    chosen = [(trial.source, trial.method, trial.rate) for trial, taken in with_choice(given) if taken]
    assert chosen == [("x", "a", 3e-4), ("x", "b", 3e-3), ("y", "a", 1e-3)]


def test_every_trial_is_written() -> None:
    lines = list(csv.DictReader(io.StringIO(rates_csv(trials((0.5, 0.7, 0.6))))))
    assert [(line["learning_rate"], line["final_accuracy"], line["chosen"]) for line in lines] == [
        ("0.0003", "0.5", "0"),
        ("0.001", "0.7", "1"),
        ("0.003", "0.6", "0"),
    ]


@pytest.mark.parametrize(("losses", "best"), [((2.0, 1.5, 1.7), 1e-3), ((2.0, math.nan, 2.1), 3e-4), ((2.0, 1.5, 1.5), 1e-3)])
def test_of_losses_the_lowest_is_the_best(losses: tuple[float, ...], best: float) -> None:
    given = [replace(trial, metric=Metric("loss")) for trial in trials(losses)]
    assert best_rates(given) == {"a": best}
    assert rates_csv(given).startswith("data,method,learning_rate,final_loss,chosen")
