"""What must hold of a recipe beyond types: limits, what fits together, and the model's own shape."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfit.aggregation.table import RULES
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate, validate_offline
from fedfit.models.families import FAMILIES, TARGETS
from fedfit.models.shape import ModelShape

HIDDEN, LAYERS, POSITIONS = 32, 4, 80
"""Of the tiny BERT."""


def faults(model: Path, *overrides: str) -> dict[str, tuple[object, str]]:
    """Key → value and remedy of every fault of the default recipe on ``model`` with ``overrides``."""
    with pytest.raises(RecipeError) as caught:
        validate(parse_recipe("", [f"model.name={model}", *overrides]))
    found = caught.value.faults
    assert len({fault.key for fault in found}) == len(found), "a key is told twice"
    return {fault.key: (fault.value, fault.remedy) for fault in found}


def test_the_default_recipe_is_valid(tiny_models: dict[str, Path]) -> None:
    for model in tiny_models.values():
        validate(parse_recipe("", [f"model.name={model}"]))


@pytest.mark.parametrize(
    ("override", "value", "remedy"),
    [
        ("seed=-1", -1, "must be at least 0"),
        ("adapter.rank=0", 0, "must be at least 1"),
        ("adapter.rank=-3", -3, "must be at least 1"),
        ("adapter.alpha=0", 0.0, "must be above 0"),
        ("adapter.alpha=nan", None, "must be a finite number"),
        ("adapter.dropout=1", 1.0, "must be at most 0.99"),
        ("partition.alpha=0", 0.0, "must be above 0"),
        ("partition.alpha=inf", float("inf"), "must be a finite number"),
        ("federation.rounds=0", 0, "must be at least 1"),
        ("data.max_tokens=3", 3, "must be at least 4"),
        ("data.train_samples=0", 0, "must be at least 1"),
        ("training.batch_size=0", 0, "must be at least 1"),
        ("training.learning_rate=0", 0.0, "must be above 0"),
        ("training.warmup=1.5", 1.5, "must be at most 1"),
        ("training.target_accuracy=90", 90.0, "must be at most 1"),
        ("trunk_cache.max_gigabytes=inf", float("inf"), "must be a finite number"),
        ("training.optimizer=adam", "adam", "did you mean 'adamw'? choose one of adamw, sgd"),
        ("training.precision=fp64", "fp64", "did you mean 'fp16'? choose one of fp32, bf16, fp16"),
        ("adapter.head=frozen", "frozen", "did you mean 'freeze'? choose one of train, freeze"),
        ("adapter.kind=ia3", "ia3", "choose one of lora"),
        ("partition.kind=dirichelt", "dirichelt", "did you mean 'dirichlet'? choose one of iid, dirichlet, shards, by_column"),
        (
            "federation.rule=fedavgg",
            "fedavgg",
            f"did you mean 'fedavg'? choose one of {', '.join(RULES)}",
        ),
        ("name=a/b", "a/b", "it names the run folder; give one word or several, without / and line breaks"),
        ("name=''", "", "it names the run folder; give one word or several, without / and line breaks"),
        ("name=..", "..", "it names the run folder; give one word or several, without / and line breaks"),
        ("trunk_cache.folder=~nobody-here/x", "~nobody-here/x", "give the path of a folder, or leave the key out"),
        ("adapter.targets=[]", [], f"name at least one of {', '.join(TARGETS)}"),
        ("adapter.targets=['key','key']", ["key", "key"], "name each matrix once"),
        ("training.momentum=0.9", 0.9, "adamw has none; set optimizer to sgd, or it to 0"),
        (
            "data.train=foo.csv",
            "foo.csv",
            'source = "pydocs" does not read it; remove it, or set data.source to a file format',
        ),
        ("data.name=owner/set", "owner/set", 'source = "pydocs" does not read it; set data.source to "hub"'),
        ("data.columns=['a','b']", ["a", "b"], "only csv and tsv files may lack a header; remove the key"),
    ],
)
def test_a_single_key(override: str, value: object, remedy: str, tiny_bert: Path) -> None:
    key = override.partition("=")[0]
    found = faults(tiny_bert, override)
    assert found.keys() == {key}
    assert found[key][1] == remedy
    assert value is None or found[key][0] == value


def test_an_unknown_source(tiny_bert: Path) -> None:
    value, remedy = faults(tiny_bert, "data.source=agnews")["data.source"]
    assert (value, remedy.split(" choose ")[0]) == ("agnews", "did you mean 'ag_news'?")


def test_a_target_is_one_of_the_adapted_matrices(tiny_bert: Path) -> None:
    value, remedy = faults(tiny_bert, "adapter.targets=['query','keys']")["adapter.targets"]
    assert value == "keys"
    assert remedy.startswith("did you mean 'key'? choose one of query, key, value")


def test_a_matrix_that_the_models_family_lacks(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = FAMILIES["bert"]
    whole = bert.shape

    def without_output(config: Any, labels: int) -> ModelShape:
        shape = whole(config, labels)
        return replace(shape, stages=shape.stages[:-1])

    monkeypatch.setitem(FAMILIES, "bert", replace(bert, shape=without_output))
    value, remedy = faults(tiny_bert, 'adapter.targets=["query", "output"]')["adapter.targets"]
    assert value == "output"
    assert "query, key, value, attention_output, intermediate" in remedy
    assert "intermediate, output" not in remedy


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "wte", "classifier"])
def test_embeddings_and_heads_are_no_targets(target: str, tiny_bert: Path) -> None:
    value, remedy = faults(tiny_bert, f'adapter.targets=["{target}"]')["adapter.targets"]
    assert value == target
    assert remedy.startswith("embeddings and heads are not adapted; in many models both are one tensor: ")
    assert "choose one of query, key, value" in remedy


def test_a_matrix_may_have_its_name_in_another_family(tiny_models: dict[str, Path]) -> None:
    """And one that the family lacks under any name is refused with the family's own names."""
    for family, targets in {"llama": '["query", "output"]', "bert": '["q_proj", "down_proj"]', "gpt2": '["key"]'}.items():
        validate(parse_recipe("", [f"model.name={tiny_models[family]}", f"adapter.targets={targets}"]))
    value, remedy = faults(tiny_models["bert"], 'adapter.targets=["gate_proj"]')["adapter.targets"]
    assert value == "gate_proj"
    assert remedy == "choose one of query, key, value, attention_output, intermediate, output"
    _, remedy = faults(tiny_models["gpt2"], 'adapter.targets=["gate_proj"]')["adapter.targets"]
    assert "choose one of c_attn, attn_c_proj, c_fc, mlp_c_proj" in remedy


def test_rank_above_the_hidden_size(tiny_bert: Path) -> None:
    value, remedy = faults(tiny_bert, f"adapter.rank={HIDDEN + 1}")["adapter.rank"]
    assert (value, remedy) == (33, "the model's matrices have 32 rows; a higher rank than that adds nothing")
    validate(parse_recipe("", [f"model.name={tiny_bert}", f"adapter.rank={HIDDEN}"]))


@pytest.mark.parametrize(
    ("layers", "remedy"),
    [
        ("last:5", "the model has 4 layers; k must lie between 1 and 4"),
        ("first:0", "between 1 and"),
        ("2-4", "the model has layers 0 to 3, so [4] cannot be adapted"),
        ("[1, 9]", "the model has layers 0 to 3, so [9] cannot be adapted"),
        ("[-1]", "so [-1] cannot be adapted"),
        ("3-1", "name at least one layer"),
        ("[]", "name at least one layer"),
        ("[1, 1]", "name each layer once"),
        ("top:3", "write first:k, middle:k, last:k, all, 3-5, or a list of layers such as [3, 4, 5]"),
    ],
)
def test_layers_out_of_range(layers: str, remedy: str, tiny_bert: Path) -> None:
    found = faults(tiny_bert, f"adapter.layers={layers}")
    assert found.keys() == {"adapter.layers"}
    assert remedy in found["adapter.layers"][1]


@pytest.mark.parametrize(("family", "longest"), [("bert", POSITIONS), ("roberta", 83), ("mpnet", 80)])
def test_texts_longer_than_the_model_reads(family: str, longest: int, tiny_models: dict[str, Path]) -> None:
    """RoBERTa counts positions from the padding id up, 0 here: of its 84 one is never used. MPNet skips the first two of 82."""
    model = tiny_models[family]
    validate(parse_recipe("", [f"model.name={model}", f"data.max_tokens={longest}"]))
    value, remedy = faults(model, f"data.max_tokens={longest + 1}")["data.max_tokens"]
    assert (value, remedy) == (longest + 1, f"the model reads at most {longest} tokens")


def test_the_rounds_in_which_devices_join(tiny_bert: Path) -> None:
    for joins, remedy in (
        ([1, 2], "there are 3 devices; give each the round in which it joins"),
        ([2, 2, 3], "rounds count from 1, and one device at least must join in the first"),
        ([0, 1, 1], "rounds count from 1, and one device at least must join in the first"),
    ):
        assert faults(tiny_bert, f"federation.joins={joins}")["federation.joins"] == (joins, remedy)
    assert "federation.joins" not in faults(tiny_bert, "federation.joins=[1, 4, 1]", "adapter.rank=0")


def test_more_devices_a_round_than_there_are(tiny_bert: Path) -> None:
    assert faults(tiny_bert, "federation.devices=4", "federation.devices_per_round=5") == {
        "federation.devices_per_round": (5, "there are 4 devices; lower it, or raise federation.devices")
    }


def test_more_devices_than_samples_asked_for(tiny_bert: Path) -> None:
    value, remedy = faults(tiny_bert, "federation.devices=10", "data.train_samples=9")["federation.devices"]
    assert (value, remedy) == (10, "data.train_samples = 9 is fewer; not every device can have one")


def test_files(tiny_bert: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("text,label\n")
    missing = faults(tiny_bert, "data.source=csv", f"data.train={there}", "data.test=~nobody-here/x.csv")
    assert missing == {"data.test": ("~nobody-here/x.csv", "no such file; relative paths start at the working folder")}
    unset = faults(tiny_bert, "data.source=parquet", f"data.train={there}")
    assert unset == {"data.test": (None, 'source = "parquet" needs the path of a file')}
    empty = faults(tiny_bert, "data.source=csv", f"data.train={there}", "data.test=''")
    assert empty == {"data.test": ("", 'source = "csv" needs the path of a file')}
    folder = faults(tiny_bert, "data.source=csv", f"data.train={tmp_path}", f"data.test={there}")
    assert folder.keys() == {"data.train"}
    no_text = faults(tiny_bert, "data.source=csv", f"data.train={there}", f"data.test={there}", "data.text=[]")
    assert no_text == {"data.text": ([], "name at least one column")}


def test_a_path_from_home(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("text,label\n")
    files = ["data.source=csv", "data.train=~/a.csv", "data.test=~/a.csv"]
    validate(parse_recipe("", [f"model.name={tiny_bert}", *files]))


def test_hub_needs_a_name(tiny_bert: Path) -> None:
    found = faults(tiny_bert, "data.source=hub")
    assert found == {"data.name": (None, 'source = "hub" needs the data set\'s name there')}


def test_by_column_needs_the_column(tiny_bert: Path) -> None:
    found = faults(tiny_bert, "partition.kind=by_column")
    assert found == {"partition.column": (None, "by_column needs the column whose values are the devices")}


def test_an_unknown_model() -> None:
    found = faults(Path("no-such-model"))
    assert found.keys() == {"model.name"}
    assert "give an alias (minilm, smollm2), a hub name that can be reached" in found["model.name"][1]


def test_an_unsupported_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    value, remedy = faults(tmp_path)["model.name"]
    assert value == str(tmp_path)
    assert "the family 't5'" in remedy
    assert f"supported: {', '.join(sorted(FAMILIES))}" in remedy


def test_all_faults_at_once_with_those_of_the_model(tiny_bert: Path) -> None:
    wrong = ["federation.rule=fedprox", "adapter.rank=99", "adapter.layers=last:9", "data.source=hub", "data.max_tokens=999"]
    found = faults(tiny_bert, *wrong, "federation.devices=2")
    assert list(found) == [
        "federation.rule",
        "data.name",
        "federation.devices_per_round",
        "adapter.layers",
        "adapter.rank",
        "data.max_tokens",
    ]


def test_offline_reads_neither_model_nor_files() -> None:
    recipe = parse_recipe("", ["model.name=no-such-model", "data.source=csv", "data.train=no.csv", "data.test=no.csv"])
    assert validate_offline(recipe) == []
