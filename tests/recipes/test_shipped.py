"""Every recipe that comes with the package: it holds, it says what it is, and it means what the issue says."""

import re
from dataclasses import astuple

import pytest

from fedfit.aggregation.rules.flasc import FlascKeys
from fedfit.aggregation.rules.hetlora_pruning import PruningKeys
from fedfit.aggregation.rules.slora import SloraKeys
from fedfit.experiment.load import parse_recipe, recipe_heads, shipped_recipes, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.settings import Recipe

NAMES = (
    "agnews-minilm",
    "agnews-noniid",
    "agnews-per-device",
    "agnews-roberta",
    "agnews-wireless",
    "banking77",
    "commonsense",
    "demo",
    "demo-llm",
    "domains",
    "fdlora",
    "fedadam",
    "fedex-lora",
    "fedit",
    "fedprox",
    "fedsa-lora",
    "ffa-lora",
    "flasc",
    "flexlora",
    "flora",
    "fslora",
    "hetlora",
    "mrpc-minilm",
    "persona",
    "rolora",
    "scaffold",
    "shakespeare",
    "slora",
    "sst2-minilm",
    "truthfulqa",
)


def test_the_list_is_complete() -> None:
    assert tuple(shipped_recipes()) == NAMES
    assert tuple(recipe_heads()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_named_after_its_file(name: str) -> None:
    recipe = parse_recipe(shipped_recipes()[name])
    assert validate_offline(recipe) == []
    assert recipe.name == name


@pytest.mark.parametrize("name", NAMES)
def test_survives_being_written_out(name: str) -> None:
    recipe = parse_recipe(shipped_recipes()[name])
    assert parse_recipe(to_toml(recipe)) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_head_comment_has_one_line_of_what_the_command_and_the_expectation(name: str) -> None:
    text = shipped_recipes()[name]
    head = text[: re.search(r"^[^#]", text, re.MULTILINE).start()]  # type: ignore[union-attr]
    first, empty, command, *rest = head.splitlines()
    assert re.fullmatch(r"# [A-Z].{20,}\.", first)
    assert (empty, command) == ("#", f"#   fedfit run {name}")
    assert any(line.startswith("# Expect: ") for line in rest)
    assert re.search(r"minutes", head, re.IGNORECASE), "it does not say how long it takes"
    assert recipe_heads()[name] == first.removeprefix("# ")


@pytest.mark.parametrize("name", NAMES)
def test_holds_no_path(name: str) -> None:
    recipe = parse_recipe(shipped_recipes()[name])
    assert recipe.data.train is recipe.data.test is recipe.trunk_cache.folder is None
    values = [value for section in astuple(recipe) if isinstance(section, tuple) for value in section]
    paths = [value for value in values if isinstance(value, str) and re.search(r"^[./~]|\.\w+$", value)]
    assert paths == []


def _recipe(name: str) -> Recipe:
    return parse_recipe(shipped_recipes()[name])


def test_agnews_minilm_is_the_run_of_the_readme() -> None:
    recipe = _recipe("agnews-minilm")
    assert (recipe.data.source, recipe.data.train_samples, recipe.data.test_samples) == ("ag_news", 12_000, None)
    assert (recipe.partition.kind, recipe.federation.devices, recipe.federation.devices_per_round) == ("iid", 3, 3)
    assert (recipe.federation.rounds, recipe.federation.rule) == (5, "fedavg")
    assert (recipe.model.name, recipe.adapter.rank, recipe.adapter.layers) == ("minilm", 8, "last:3")
    assert (recipe.training.learning_rate, recipe.training.batch_size, recipe.training.local_epochs) == (1e-3, 32, 1)


def test_agnews_roberta_is_the_setting_of_the_paper() -> None:
    recipe = _recipe("agnews-roberta")
    assert (recipe.model.name, recipe.adapter.layers, recipe.adapter.targets) == (
        "FacebookAI/roberta-base",
        "last:3",
        ("query", "value"),
    )
    assert recipe.data.train_samples == 40_000 * recipe.federation.devices == 120_000
    assert (recipe.training.learning_rate, recipe.training.local_epochs, recipe.adapter.rank) == (5e-5, 1, 32)


def test_each_method_is_the_rule_of_its_name_with_its_own_keys() -> None:
    rules = {name: (_recipe(name).federation.rule, dict(_recipe(name).federation.options)) for name in NAMES}
    assert rules["hetlora"] == ("hetlora_pruning", {"hetlora_pruning": PruningKeys(gamma=0.99, penalty=0.01)})
    assert rules["flasc"] == ("flasc", {"flasc": FlascKeys(0.25, 0.25)})
    assert rules["slora"] == ("slora", {"slora": SloraKeys(sparse_rounds=3)})
    for name in ("fedex-lora", "fedsa-lora", "ffa-lora", "flexlora", "flora", "fslora", "rolora", "scaffold"):
        assert rules[name] == (name.replace("-", "_"), {})
    others = set(NAMES) - {"hetlora", "flasc", "slora", "fedex-lora", "fedsa-lora", "ffa-lora", "flexlora", "flora", "fslora"}
    mixed = {"agnews-per-device": "flexlora", "rolora": "rolora", "scaffold": "scaffold"}
    assert {name: rules[name][0] for name in others} == {name: mixed.get(name, "fedavg") for name in others}


def test_agnews_noniid_is_skewed_and_partial() -> None:
    recipe = _recipe("agnews-noniid")
    assert (recipe.partition.kind, recipe.partition.alpha) == ("dirichlet", 0.3)
    assert (recipe.federation.devices, recipe.federation.devices_per_round) == (30, 10)


def test_the_recipes_of_language_models_have_natural_clients() -> None:
    columns = {
        "commonsense": "client",
        "domains": "domain",
        "persona": "trait",
        "shakespeare": "speaker",
        "truthfulqa": "category",
    }
    for name, column in columns.items():
        recipe = _recipe(name)
        assert (recipe.data.source, recipe.model.name) == (name, "smollm2")
        assert (recipe.partition.kind, recipe.partition.column) == ("by_column", column)
    kinds = {name: _recipe(name).task.kind for name in columns}
    assert set(kinds.values()) == {"instruction", "preference", "language_modelling"}
    assert (_recipe("truthfulqa").task.loss, _recipe("persona").task.loss) == ("dpo", "kto")
