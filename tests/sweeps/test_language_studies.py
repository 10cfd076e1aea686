"""The comparisons of language models: valid recipes at every scale, equal settings, and the smallest scale end to end."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.settings import Recipe
from fedfit.sweeps import commonsense, instructions, preferences
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.comparison_pages import write_comparison
from fedfit.sweeps.comparison_run import comparison_stages
from fedfit.sweeps.language_base import SCALES
from fedfit.sweeps.mixed_ranks import CENTRAL, FSLORA
from fedfit.sweeps.reproduce import COMPARISONS, comparison_study, find_study
from fedfit.sweeps.runner import run_stages
from tests.builders import chat_tokenizer, save_tiny_model
from tests.data.test_named import write
from tests.data.test_named_prompts import small_files

STUDIES: dict[str, Callable[[str], Comparison]] = {
    "commonsense": commonsense.commonsense,
    "instructions": instructions.instructions,
    "preferences": preferences.preferences,
}
METRICS = {"commonsense": "answer_accuracy", "instructions": "loss", "preferences": "preference_accuracy"}


def recipes(name: str, scale: str = "small") -> dict[str, Recipe]:
    """Method → its recipe in the first case."""
    made = STUDIES[name](scale)
    return {run.point.line: run.recipe for run in made.main(made.cases[0], made.lowest_rates).runs()}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_run_is_valid(name: str, scale: str) -> None:
    made = STUDIES[name](scale)
    runs = [run for source in made.sources() for run in made.search(source).runs()]
    runs += [run for case in made.cases for run in made.main(case, made.lowest_rates).with_seeds(1).runs()]
    for run in runs:
        assert validate_offline(run.recipe) == []
        assert parse_recipe(to_toml(run.recipe)) == run.recipe


@pytest.mark.parametrize("name", STUDIES)
def test_the_study_has_three_seeds_and_its_metric_and_claims_on_its_methods(name: str) -> None:
    made = COMPARISONS[name][0]("small")
    assert (made.seeds, made.metric.name) == ((0, 1, 2), METRICS[name])
    assert made.search_seed not in made.seeds
    lines = {method.name for method in made.methods}
    assert {line for claim in made.claims for pair in claim.pairs for line in pair} <= lines
    assert find_study(name, "smoke").default_out.as_posix() == f"runs/{name}-smoke"
    assert not STUDIES[name]("smoke").searches


def test_the_methods_of_unequal_ranks_differ_in_rule_and_rank_alone() -> None:
    found = recipes("commonsense")
    mixed = [recipe for recipe in found.values() if recipe.federation.ranks is not None]
    assert {recipe.federation.ranks.values for recipe in mixed} == {(4, 8, 16, 32)}  # type: ignore[union-attr]
    assert len(mixed) == 6
    assert {recipe.adapter.size(recipe.adapter.rank).scale for recipe in found.values()} == {1.0}
    server = found[commonsense.FSLORA_SERVER]
    assert (server.federation.rule, server.federation.server_optimizer, server.training.optimizer) == ("fslora", "adam", "sgd")
    for recipe in (recipe for name, recipe in found.items() if name != commonsense.FSLORA_SERVER):
        assert (recipe.federation.server_optimizer, recipe.training.optimizer) == ("none", "adamw")
    central = found[CENTRAL]
    steps = found[FSLORA].training.local_steps
    assert central.training.local_steps == (steps or 0) * found[FSLORA].federation.devices_per_round


def test_the_scale_of_the_paper_has_the_settings_of_fsloras_code() -> None:
    found = recipes("commonsense", "paper")[commonsense.FSLORA_SERVER]
    assert (found.model.name, found.federation.rounds, found.training.local_steps) == ("meta-llama/Llama-3.2-3B", 750, 20)
    assert found.federation.server_learning_rate == 3e-4
    assert found.adapter.targets == ("q_proj", "v_proj", "up_proj", "down_proj")


def test_the_seven_algorithms_and_local() -> None:
    found = recipes("instructions", "paper")
    kinds = {name: recipe.federation.server_optimizer for name, recipe in found.items()}
    expected = {"FedAvgM": "momentum", "FedAdagrad": "adagrad", "FedYogi": "yogi", "FedAdam": "adam"}
    assert kinds == dict.fromkeys(("FedAvg", "FedProx", "SCAFFOLD", "local only"), "none") | expected
    assert {recipe.training.proximal for recipe in found.values()} == {0, 0.01}
    assert (found["SCAFFOLD"].federation.rule, found["local only"].federation.rule) == ("scaffold", "local_only")
    plain = found["FedAvg"]
    assert (plain.federation.rounds, plain.training.local_steps, plain.training.batch_size) == (200, 10, 16)
    assert (plain.training.learning_rate, plain.training.schedule, plain.task.template) == (5e-5, "cosine", "alpaca")
    assert (plain.adapter.rank, plain.adapter.alpha, plain.data.max_tokens) == (32, 64, 512)


def test_the_preferences_have_two_losses_federated_and_alone_on_two_data_sets() -> None:
    found = recipes("preferences")
    assert {name: (recipe.task.loss, recipe.federation.rule) for name, recipe in found.items()} == {
        "DPO, federated": ("dpo", "fedavg"),
        "KTO, federated": ("kto", "fedavg"),
        "DPO, local only": ("dpo", "local_only"),
        "KTO, local only": ("kto", "local_only"),
    }
    made = preferences.preferences("small")
    columns = {case.source: made.main(case, made.lowest_rates).runs()[0].recipe.partition.column for case in made.cases}
    assert columns == {"truthfulqa": "category", "persona": "client"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder that takes texts of some hundred letters."""
    folder = save_tiny_model("llama", tmp_path_factory.mktemp("decoder"))
    chat_tokenizer().save_pretrained(folder)
    settings = folder / "config.json"
    settings.write_text(re.sub(r'("max_position_embeddings": )\d+', r"\g<1>400", settings.read_text()))
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", small_files(questions=30))
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))


def smallest(name: str, model: Path) -> Comparison:
    """The smoke scale with a tiny model and few rows."""
    made = STUDIES[name]("smoke")
    base = made.base.replace('"smollm2"', f'"{model}"').replace("max_tokens = 96", "max_tokens = 300")
    base = re.sub(r"max_tokens = 128", "max_tokens = 300", base)
    base = re.sub(r"train_samples = \d+", "train_samples = 40" if name == "preferences" else "train_samples = 88", base)
    return replace(made, base=re.sub(r"test_samples = \d+", "test_samples = 6", base))


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", STUDIES)
def test_the_smallest_scale_runs_from_the_data_to_the_verdicts(name: str, model: Path, tmp_path: Path) -> None:
    made, out = smallest(name, model), tmp_path / "out"
    list(run_stages(list(comparison_stages(made, out))))
    written = {path.name for path in write_comparison(made, out)}
    assert written == {
        f"{name}.png", f"{name}.svg", f"{name}.csv", f"{name}-summary.csv", f"{name}-rounds.csv", "table.md", "verdicts.md",
        "settings.md",
    }  # fmt: skip
    lines = list(csv.DictReader((out / f"{name}.csv").open()))
    assert len(lines) == len(made.methods) * len(made.cases)
    for metric in made.shown_metrics:
        assert all(line[f"final_{metric.name}"] for line in lines), metric.name
    verdicts, table = (out / "verdicts.md").read_text(), (out / "table.md").read_text()
    assert all(claim.text in verdicts for claim in made.claims)
    assert "one seed" in verdicts
    assert ("lower is better" in verdicts) == (name == "instructions")
    assert all(f"| {method.name} |" in table for method in made.methods)
    assert next(iter(comparison_study(made).stages(out))).label == made.cases[0].slug  # nothing is searched
