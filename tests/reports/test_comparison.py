"""Comparisons at equal cost and at equal quality, against values computed by hand, and differences between recipes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfit.errors import RecipeError
from fedfit.reports.budget import Judged, cost_to_target, quality_under_budget
from fedfit.reports.comparison import Comparison, differences
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, read_run

from .conftest import MakeRun, plan_run, rewrite_rounds, without_metrics
from .test_tables import shown

NONE: dict[str, float | None] = {"mb": None, "s": None, "j": None}


def fast_and_slow(make_run: MakeRun) -> list[RunData]:
    """Two runs with different accuracies; a round sends 3 · 3,000 bytes, lasts 20 s and takes 50 J."""
    runs = []
    for name, accuracies in (("fast", (0.25, 0.8, 0.9, 0.85)), ("slow", (0.25, 0.3, 0.4, 0.5, 0.6, 0.95))):
        folder = make_run(name, name=name, accuracies=accuracies, planned=len(accuracies) - 1)
        runs.append(read_run(plan_run(folder, (4, 8, 8), ("energy",) * 3)))
    return runs


def test_defaults_by_hand(make_run: MakeRun) -> None:
    """The fast run has the smallest totals: 0.027 MB, 60 s, 150 J. Within them the slow run reached 50 %.

    The lowest final accuracy is 85 %. The fast run first exceeds it after round 2 (90 %), the slow run after round 5 (95 %).
    """
    found = Comparison.of(fast_and_slow(make_run), NONE).to_json()
    quality, cost = found["quality_under_budget"], found["cost_to_target"]
    assert quality["budgets"] == pytest.approx({"mb": 0.027, "s": 60, "j": 150})
    assert quality["runs"] == [
        {"name": "fast", "mb": 0.9, "s": 0.9, "j": 0.9},
        {"name": "slow", "mb": 0.5, "s": 0.5, "j": 0.5},
    ]
    assert cost["target"] == 0.85
    assert cost["runs"] == [
        {"name": "fast", "reached": {"round": 2, "mb": pytest.approx(0.018), "s": 40, "j": 100}},
        {"name": "slow", "reached": {"round": 5, "mb": pytest.approx(0.045), "s": 100, "j": 250}},
    ]
    assert (quality["metric"], quality["decided_by"]) == ("test_accuracy", "test_accuracy")
    json.dumps(found, allow_nan=False)


def test_given_limits_by_hand(make_run: MakeRun) -> None:
    """One round fits within 20 s, only the untrained model within 45 J; only the slow run reaches 92 %."""
    comparison = Comparison.of(fast_and_slow(make_run), {"mb": None, "s": 20, "j": 45}, 0.92)
    found = comparison.to_json()
    assert [run["s"] for run in found["quality_under_budget"]["runs"]] == [0.8, 0.3]
    assert [run["j"] for run in found["quality_under_budget"]["runs"]] == [0.25, 0.25]
    assert [run["reached"] and run["reached"]["round"] for run in found["cost_to_target"]["runs"]] == [None, 5]
    text = "\n".join(f"{title}\n{shown(table, width=80)}" for title, table in comparison.tables())
    for expected in ("Quality-under-Budget", "Cost-to-Target", "92.00 %", "never", "80.00 %", "Recipes differ in"):
        assert expected in text
    assert "…" not in text
    assert "≤\u00a020\u00a0s" in text
    assert "reaches 92.00 %" in text
    assert "lowest final" not in text


@pytest.mark.parametrize("higher", [True, False])
def test_against_a_brute_force_search(higher: bool, make_run: MakeRun) -> None:
    """Random curves with rounds that are not evaluated: the best value within a budget, the first round at a target."""
    rng = np.random.default_rng(0)
    name = "accuracy" if higher else "perplexity"
    judged = Judged(Measure.of(f"test_{name}"), Measure.of(f"test_{name}"))
    for trial in range(20):
        rounds = [
            {"round": count, "uplink_bytes": int(rng.integers(1, 9)), "downlink_bytes": 0, "simulated_s": float(rng.random())}
            | ({} if rng.random() < 0.4 else {f"test_{name}": float(rng.random())})
            for count in range(12)
        ]
        run = RunData(Path(str(trial)), "run", {}, {}, rounds, [], None)
        spent = np.cumsum([row["uplink_bytes"] for row in rounds]) / 1e6
        values = [row.get(f"test_{name}", math.nan) for row in rounds]
        best = max if higher else min
        for budget in (0.0, 10e-6, 25e-6, 1.0):
            within = [value for value, cost in zip(values, spent, strict=True) if cost <= budget and not math.isnan(value)]
            assert quality_under_budget(run, judged, "mb", budget) == best(within, default=None)
        for target in (0.1, 0.5, 0.9):
            first = [count for count, value in enumerate(values) if (value >= target if higher else value <= target)]
            found = cost_to_target(run, judged, target)
            assert (None if found is None else found["round"]) == (first[0] if first else None)
            if found is not None:
                assert found["mb"] == pytest.approx(spent[first[0]])


def test_rounds_without_evaluation_do_not_reach_the_target(make_run: MakeRun) -> None:
    folder = rewrite_rounds(make_run(), lambda row: without_metrics(row) if row["round"] == 2 else row)
    found = Comparison.of([read_run(folder)], NONE, 0.82).to_json()
    assert found["cost_to_target"]["runs"][0]["reached"]["round"] == 3
    assert found["quality_under_budget"]["runs"][0]["mb"] == 0.85


def test_validation_rows_choose_the_round(make_run: MakeRun) -> None:
    """Validation accuracy is highest after round 1, where test accuracy is 80 % and not at its best, 90 %."""
    validation = (0.2, 0.7, 0.6, 0.5)
    folder = rewrite_rounds(make_run(), lambda row: row | {"validation_accuracy": validation[row["round"]]})
    comparison = Comparison.of([read_run(folder)], NONE)
    found = comparison.to_json()
    assert found["quality_under_budget"]["runs"][0]["mb"] == 0.8
    assert (found["cost_to_target"]["target"], found["cost_to_target"]["runs"][0]["reached"]["round"]) == (0.5, 1)
    assert found["cost_to_target"]["decided_by"] == "validation_accuracy"
    assert "chosen by validation accuracy" in comparison.tables()[1][0]


def test_runs_that_were_not_simulated_have_megabytes_alone(make_run: MakeRun) -> None:
    runs = [read_run(make_run("one")), read_run(make_run("two"))]
    found = Comparison.of(runs, NONE).to_json()
    assert found["quality_under_budget"]["budgets"] == pytest.approx({"mb": 0.027})
    assert found["cost_to_target"]["runs"][0]["reached"]["s"] is None
    titles, tables = zip(*Comparison.of(runs, NONE).tables(), strict=True)
    assert titles[2] == "Cost-to-Target: cost until test accuracy reaches 85.00 % (the lowest final value)"
    assert [str(column.header) for column in tables[2].columns] == ["Run", "Rounds", "MB"]
    assert [str(column.header).replace("\n", " ") for column in tables[1].columns] == ["Run", "≤\u00a00.027\u00a0MB"]
    with pytest.raises(RecipeError, match=r"--budget-s = 5: no run was simulated"):
        Comparison.of(runs, NONE | {"s": 5})


def test_invalid_limits_are_all_named_at_once(make_run: MakeRun) -> None:
    with pytest.raises(RecipeError) as error:
        Comparison.of([read_run(make_run())], NONE | {"mb": 0}, 85)
    assert [fault.key for fault in error.value.faults] == ["--budget-mb", "--target"]
    assert "accuracy is a share of 1; give 0.85 for 85 %" in str(error.value)


def test_runs_without_any_value_have_dashes(make_run: MakeRun) -> None:
    comparison = Comparison.of([read_run(make_run(accuracies=(None, None)))], NONE)
    found: dict[str, Any] = comparison.to_json()
    json.dumps(found, allow_nan=False)
    assert found["cost_to_target"] | {"runs": 0} == {
        "metric": "test_accuracy", "decided_by": "test_accuracy", "target": None, "runs": 0,
    }  # fmt: skip
    assert "–" in shown(comparison.tables()[1][1])


def test_recipes_side_by_side(make_run: MakeRun) -> None:
    one, two = read_run(make_run("one", planned=3)), read_run(make_run("two", name="other", planned=4, target=0.5))
    assert differences([one, two]) == {"federation.rounds": [3, 4], "training.target_accuracy": [0.0, 0.5]}
    planned = read_run(plan_run(make_run("three"), (4, 8, 8), ("energy",) * 3))
    assert differences([one, planned])["plan.deadline_s"] == ["unset", 25.0]
    assert differences([one, one]) == {}
    assert len(Comparison.of([one, one], NONE).tables()) == 3
