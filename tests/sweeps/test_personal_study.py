"""The study of the devices' own models: valid recipes, equal steps, its metric, and the smallest scale end to end."""

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.personalization.table import make_method, method_keys
from fedfit.settings import Recipe
from fedfit.sweeps.comparison_pages import write_comparison
from fedfit.sweeps.comparison_run import comparison_stages
from fedfit.sweeps.fdlora_ablations import fdlora_ablations
from fedfit.sweeps.metric import OWN, Metric, names_in
from fedfit.sweeps.personal import SCALES, personal
from fedfit.sweeps.personal_methods import FINE_TUNED
from fedfit.sweeps.personal_scenes import INTENTS, LOGS, QUESTIONS, SCENES, TRADES, logs
from fedfit.sweeps.reproduce import COMPARISONS
from fedfit.sweeps.runner import run_stages

STUDIES = {"personal": personal, "fdlora-ablations": fdlora_ablations, **SCENES}
TOTAL = {"personal": 64, "fdlora-ablations": 64, LOGS: 64, INTENTS: 192, QUESTIONS: 36, TRADES: 24}
"""Steps of a device in all."""


def recipes(name: str = "personal") -> dict[str, Recipe]:
    made = STUDIES[name]("small")
    return {run.point.line: run.recipe for run in made.main(made.cases[0], made.lowest_rates).runs()}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_valid(name: str, scale: str) -> None:
    made = STUDIES[name](scale)
    lines = {method.name for method in made.methods}
    assert {line for claim in made.claims for pair in claim.pairs for line in pair} <= lines
    assert COMPARISONS[name][0] is STUDIES[name]
    for case in made.cases:
        for run in made.main(case, made.lowest_rates).with_seeds(1).runs():
            assert validate_offline(run.recipe) == []
            assert parse_recipe(to_toml(run.recipe)) == run.recipe


@pytest.mark.parametrize("name", STUDIES)
def test_every_device_takes_as_many_steps(name: str) -> None:
    """Rounds × trainings of a round × steps of each; fine-tuning has a round less, and makes it up at the end.

    A frozen pair beside costs 5/3 in FedALT and in a half of FedDPA, and takes no step more.
    """
    costly = {"FedALT": 5 / 3, "FedDPA": (1 + 5 / 3) / 2}
    for line, recipe in recipes(name).items():
        method, steps = make_method(recipe), recipe.training.local_steps
        assert steps is not None
        passes = (1.0 if method is None else method.passes) / costly.get(line, 1.0)
        total = recipe.federation.rounds * passes * steps
        assert total + (steps if line == FINE_TUNED else 0) == pytest.approx(TOTAL[name]), line


def test_a_scene_has_every_method_that_its_paper_names() -> None:
    named = {
        "FDLoRA",
        "local only",
        "FedAvg",
        "FedAvg, fine-tuned",
        "FedSA-LoRA",
        "Ditto",
        "FedRep",
        "FedDPA",
        "FedALT",
        "PFTT",
    }
    for name, scene in SCENES.items():
        lines = {method.name for method in scene("small").methods}
        assert lines == (named if name in (LOGS, INTENTS) else named - {"FedRep"}), "a language model's head is frozen"


def test_an_ablation_changes_one_choice() -> None:
    def choices(recipe: Recipe) -> dict[str, object]:
        own, federation, training = recipe.personalization, recipe.federation, recipe.training
        beside = {"few_shot_share": own.few_shot_share, "rounds": federation.rounds, "steps": training.local_steps}
        return asdict(method_keys(recipe)) | beside

    found = {line: choices(recipe) for line, recipe in recipes("fdlora-ablations").items()}
    default = found.pop("default")
    for line, other in found.items():
        changed = {name for name, value in other.items() if value != default[name]}
        assert len(changed) == (2 if line.startswith("K ") else 1), (line, changed)


def test_logs_are_cut_by_template_and_at_random() -> None:
    apart, mixed = (logs("small").main(case, logs("small").lowest_rates).runs()[0].recipe for case in logs("small").cases)
    assert (apart.evaluation.device_test_column, mixed.evaluation.device_test_column) == ("EventId", None)
    assert [case.slug for case in logs("small").cases] == ["bgl-templates-apart", "bgl-lines-at-random"]
    assert [case.label for case in logs("small").cases] == ["BGL, templates apart", "BGL, lines at random"]


LINE = {
    "round": 4,
    "shared_accuracy_mean": 0.5,
    "shared_accuracy_worst": 0.1,
    "personal_accuracy_mean": 0.7,
    "personal_accuracy_worst": 0.2,
    "fused_accuracy_mean": 0.8,
    "fused_accuracy_worst": 0.3,
    "test_accuracy": 0.4,
}


@pytest.mark.parametrize(
    ("without", "mean", "worst"), [((), 0.8, 0.3), (("fused",), 0.7, 0.2), (("fused", "personal"), 0.5, 0.1)]
)
def test_the_metric_is_of_the_model_that_a_device_uses(without: tuple[str, ...], mean: float, worst: float) -> None:
    line = {key: value for key, value in LINE.items() if not key.startswith(without or ("none",))}
    assert Metric("accuracy", OWN).of(line) == mean
    assert Metric("accuracy_worst", OWN).of(line) == worst
    assert names_in(line, OWN) == ["accuracy", "accuracy_worst"]
    assert Metric("accuracy").of(line) == 0.4
    assert Metric("accuracy", OWN).heading == "accuracy, mean, %"


def test_the_smallest_scale_runs_from_the_data_to_the_verdicts(tmp_path: Path) -> None:
    made, out = personal("smoke"), tmp_path / "out"
    list(run_stages(list(comparison_stages(made, out))))
    write_comparison(made, out)
    rows = list(csv.DictReader((out / "personal.csv").open()))
    assert [row["method"] for row in rows] == [method.name for method in made.methods]
    for row in rows:
        mean, worst = float(row["final_accuracy"]), float(row["final_accuracy_worst"])
        assert 0 <= worst <= mean <= 1
        assert float(row["final_accuracy_spread"]) >= 0
    by_name = {row["method"]: row for row in rows}
    assert float(by_name["FDLoRA"]["uplink_bytes"]) == pytest.approx(float(by_name["FedAvg"]["uplink_bytes"]), rel=1e-2)
    assert "| FDLoRA above local only |" in (out / "verdicts.md").read_text()
    assert "accuracy, worst device" in (out / "table.md").read_text()
