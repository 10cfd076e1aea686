"""From TOML and the command line to a recipe: known keys, right types, every fault at once."""

import math
import re
import tomllib
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.aggregation.rules.krum import KrumKeys
from fedfit.aggregation.table import RULES
from fedfit.data_settings import DataSettings
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe, read_recipe, to_toml
from fedfit.experiment.moved import MOVED
from fedfit.settings import AdapterSettings, Recipe, TrainingSettings


def faults(text: str = "", *overrides: str) -> dict[str, tuple[object, str]]:
    """Key → value and remedy of every fault, of which there must be at least one."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, overrides)
    for fault in caught.value.faults:
        assert f"{fault.key} = {fault.value!r}: {fault.remedy}" in str(caught.value)
    return {fault.key: (fault.value, fault.remedy) for fault in caught.value.faults}


def test_the_empty_recipe_is_all_defaults() -> None:
    assert parse_recipe("") == Recipe()


def test_keys_reach_their_place() -> None:
    recipe = parse_recipe("name = 'mine'\nseed = 4\n[adapter]\nrank = 3\nlayers = [3, 4]\n[training]\nlocal_steps = 7\n")
    assert recipe == Recipe(
        name="mine", seed=4, adapter=AdapterSettings(rank=3, layers=(3, 4)), training=TrainingSettings(local_steps=7)
    )


def test_all_faults_at_once() -> None:
    """Types, unknown keys and limits of single keys, from the file and the command line, in one message."""
    text = "seed = 'x'\n[federation]\nrouns = 3\nrule = 'fedsgd'\n[adapter]\nrank = 0\nlayers = 'top:3'\n[extra]\na = 1\n"
    found = faults(text, "training.batch_size=many", "nonsense")
    assert list(found) == [
        "override",
        "extra",
        "seed",
        "federation.rouns",
        "training.batch_size",
        "adapter.rank",
        "federation.rule",
        "adapter.layers",
    ]


def test_a_fault_is_told_once() -> None:
    """A key of the wrong type is not checked further, nor is what depends on it."""
    assert list(faults("[federation]\ndevices = 'ten'\ndevices_per_round = 10\n")) == ["federation.devices"]


FLASC_OR_SLORA = "did you mean federation.flasc.upload_density or federation.slora.density?"


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("[federation]\nround = 3", "federation.round", "did you mean federation.rounds?"),
        ("[training]\nlearning_rte = 1.0", "training.learning_rte", "did you mean training.learning_rate?"),
        ("[adaptor]\nrank = 3", "adaptor", "did you mean adapter?"),
        ("rounds = 3", "rounds", "did you mean federation.rounds?"),
        ("[training]\nrank = 3", "training.rank", "did you mean adapter.rank?"),
        ("[federation]\nseed = 3", "federation.seed", "did you mean seed or fleet.seed?"),
        ("[data]\ncolumn = 3", "data.column", "did you mean data.columns or partition.column?"),
        ("[training]\nalpha = 3", "training.alpha", "did you mean partition.alpha or adapter.alpha?"),
        ("learning_rat = 3", "learning_rat", "did you mean training.learning_rate?"),
        ("[model]\nqqq = 3", "model.qqq", "known here: name"),
        ("[federation]\ngamma = 0.9", "federation.gamma", "did you mean federation.hetlora_pruning.gamma?"),
        ("[federation.flasc]\ndensity = 0.9", "federation.flasc.density", FLASC_OR_SLORA),
        ("[federation.krum]\nbyzantin = 2", "federation.krum.byzantin", "did you mean federation.krum.byzantine?"),
    ],
)
def test_an_unknown_key_names_the_nearest(text: str, key: str, hint: str) -> None:
    assert faults(text)[key][1] == f"unknown key; {hint}"


def names_of(word: str) -> list[str]:
    """The dotted keys in a remedy."""
    return re.findall(r"(?:federation|training)\.[a-z_.]*[a-z_]", word)


@pytest.mark.parametrize(
    ("key", "written", "value", "new"),
    [
        ("federation.robust", "'median'", "median", ["federation.rule"]),
        ("federation.trim", "0.2", 0.2, ["federation.trimmed_mean.trim"]),
        ("federation.suspected", "2", 2, ["federation.krum.byzantine"]),
        ("federation.norm_bound", "1.5", 1.5, ["federation.norm_bound.bound"]),
        ("federation.sketch", "'shared'", "shared", ["federation.fslora.sketch"]),
        ("federation.sketch_ratios", "[0.5, 1, 1]", [0.5, 1, 1], ["federation.rank_shares"]),
        ("federation.pruning", "0.9", 0.9, ["federation.rule", "federation.hetlora_pruning.gamma"]),
        ("federation.pruning_penalty", "0.1", 0.1, ["federation.hetlora_pruning.penalty"]),
        ("federation.download_density", "0.5", 0.5, ["federation.flasc.download_density"]),
        ("federation.upload_density", "0.5", 0.5, ["federation.flasc.upload_density"]),
        ("federation.sparse_rounds", "3", 3, ["federation.slora.sparse_rounds"]),
        ("federation.sparse_density", "0.5", 0.5, ["federation.slora.density"]),
        ("training.scaffold", "true", True, ["federation.rule"]),
    ],
)
def test_a_key_that_has_moved_names_its_new_place(key: str, written: str, value: object, new: list[str]) -> None:
    section, name = key.split(".")
    for found in (faults(f"[{section}]\n{name} = {written}\n"), faults("", f"{key}={written}")):
        assert found == {key: (value, f"unknown key; {MOVED[key]}")}
    assert names_of(MOVED[key]) == new


def test_every_moved_key_is_unknown_and_every_new_place_is_a_key() -> None:
    """The table has no key that a recipe knows, and all that it names can be set: a rule's word and its own keys."""
    values = {"rule": "'fedavg'", "sketch": "'shared'", "rank_shares": "[0.5, 1.0]", "sparse_rounds": "1", "byzantine": "1"}
    for old, remedy in MOVED.items():
        section, name = old.split(".")
        assert name not in {item.name for item in fields(getattr(Recipe(), section))}
        for new in names_of(remedy):
            parse_recipe("", [f"{new}={values.get(new.rpartition('.')[2], '0.5')}"])
        for word in re.findall(r"federation\.rule to ([a-z_, ]+?)(?: and|, or|$)", remedy):
            assert all(rule in RULES for rule in re.split(", | or ", word)), word


def test_the_keys_of_a_rule_stand_in_a_table_of_its_name() -> None:
    text = "[federation]\nrule = 'krum'\n[federation.krum]\nbyzantine = 2\n"
    assert parse_recipe(text).federation.options == {"krum": KrumKeys(2)}
    assert parse_recipe("", ["federation.krum.byzantine=2"]).federation.options == {"krum": KrumKeys(2)}
    assert parse_recipe(to_toml(parse_recipe(text))) == parse_recipe(text)
    assert faults("[federation.krum]\nbyzantine = 'two'") == {"federation.krum.byzantine": ("two", "must be a whole number")}
    assert faults("[federation]\nkrum = 2") == {
        "federation.krum": (2, "federation.krum is a section; write [federation.krum] and its keys below")
    }
    assert faults("[federation.median]\ntrim = 2") == {
        "federation.median": ({"trim": 2}, "median has no keys of its own; remove it")
    }
    for wrong, near in (("federation.krumm", "krum"), ("flasc", "flasc"), ("training.slora", "slora")):
        value, remedy = faults(f"[{wrong}]\nx = 2")[wrong]
        assert (value, remedy) == ({"x": 2}, f"unknown key; did you mean federation.{near}?")


@pytest.mark.parametrize(
    ("key", "written", "value", "wanted"),
    [
        ("adapter.rank", "true", True, "a whole number"),
        ("adapter.rank", "8.0", 8.0, "a whole number"),
        ("adapter.rank", "'8'", "8", "a whole number"),
        ("adapter.alpha", "false", False, "a number"),
        ("adapter.alpha", f"{10**400}", 10**400, "a number"),
        ("training.dropout", "1", 1, "true or false"),
        ("training.dropout", "'yes'", "yes", "true or false"),
        ("model.name", "3", 3, "a string"),
        ("model.name", "['minilm']", ["minilm"], "a string"),
        ("data.text", "3", 3, "a list of strings"),
        ("data.text", "['a', 3]", ["a", 3], "a list of strings"),
        ("adapter.layers", "[1, true]", [1, True], "a string or a list of whole numbers"),
        ("adapter.layers", "3", 3, "a string or a list of whole numbers; write 'adapter.layers=[3]'"),
        ("data.train_samples", "'all'", "all", "a whole number"),
        ("federation.devices", "{a = 1}", {"a": 1}, "a whole number"),
    ],
)
def test_a_wrong_type_is_told_with_the_right_one(key: str, written: str, value: object, wanted: str) -> None:
    section, name = key.split(".")
    assert faults(f"[{section}]\n{name} = {written}\n") == {key: (value, f"must be {wanted}")}
    assert faults("", f"{key}={written}") == {key: (value, f"must be {wanted}")}


def test_a_section_is_a_table() -> None:
    assert faults("adapter = 8") == {"adapter": (8, "adapter is a section; write [adapter] and its keys below")}
    assert faults("[[adapter]]\nrank = 8")["adapter"][1].startswith("adapter is a section")


def test_one_text_column_needs_no_list() -> None:
    assert parse_recipe("[data]\ntext = 'body'").data.text == ("body",)


def test_a_whole_number_is_a_number() -> None:
    alpha = parse_recipe("[adapter]\nalpha = 16").adapter.alpha
    assert (alpha, type(alpha)) == (16.0, float)


@pytest.mark.parametrize("text", ["seed = ", "[data", "seed = 1\nseed = 2", "a = " + "9" * 5000, "a = " + "[" * 9000])
def test_not_toml(text: str) -> None:
    assert faults(text).keys() == {"recipe"}


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("adapter.rank=4", "adapter", "rank", 4),
        (" adapter.rank = 4 ", "adapter", "rank", 4),
        ("training.learning_rate=5e-5", "training", "learning_rate", 5e-5),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.dropout=true", "training", "dropout", True),
        ("model.name=FacebookAI/roberta-base", "model", "name", "FacebookAI/roberta-base"),
        ("model.name='3'", "model", "name", "3"),
        ("adapter.layers=last:2", "adapter", "layers", "last:2"),
        ("adapter.layers=3-5", "adapter", "layers", "3-5"),
        ("adapter.layers=[3, 5]", "adapter", "layers", (3, 5)),
        ("adapter.targets=['key']", "adapter", "targets", ("key",)),
        ("data.train=a=b.csv", "data", "train", "a=b.csv"),
        ("data.label=''", "data", "label", ""),
    ],
)
def test_overrides(override: str, section: str, key: str, value: object) -> None:
    recipe = parse_recipe("[adapter]\nrank = 2", [override])
    found = getattr(getattr(recipe, section), key)
    assert (found, type(found)) == (value, type(value))


def test_an_override_without_a_value_takes_the_key_out() -> None:
    """So that it has its default; a recipe that gives ranks can be run under a plan that does."""
    text = 'name = "x"\n[federation]\nrule = "flora"\nranks = [1, 2, 3]\n'
    assert parse_recipe(text).federation.ranks == (1, 2, 3)
    assert parse_recipe(text, ["federation.ranks="]).federation.ranks is None
    with pytest.raises(RecipeError, match=r"federation\.rnks = '': the recipe does not set it, so it cannot be taken out"):
        parse_recipe(text, ["federation.rnks="])


def test_top_level_and_later_overrides() -> None:
    recipe = parse_recipe("name = 'a'\nseed = 1", ["name=b", "seed=2", "seed=3"])
    assert (recipe.name, recipe.seed) == ("b", 3)


@pytest.mark.parametrize("override", ["federation.rounds", "", "=3", "federation.=3", "--rounds 3"])
def test_a_malformed_override_shows_how_it_is_written(override: str) -> None:
    assert faults("", override) == {"override": (override, "write section.key=value, for example federation.rounds=10")}


def test_an_override_below_a_key() -> None:
    assert faults("seed = 1", "seed.x=3") == {"seed.x": ("3", "seed is a key or a list of tables, not a section")}
    assert faults("", "federation.rounds.x=3") == {"federation.rounds": ({"x": 3}, "must be a whole number")}


def test_shipped_recipe_or_file_or_an_error_with_both(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("seed = 5\n")
    assert read_recipe(str(own)) == "seed = 5\n"
    assert "pydocs" in read_recipe("demo")
    with pytest.raises(RecipeError, match=r"recipe = 'demmo': did you mean 'demo'\? give a file, or one of .*demo"):
        read_recipe("demmo")
    own.write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(str(own))


def test_what_is_written_out_is_read_back() -> None:
    recipe = replace(
        Recipe(name='ünïcode "quoted"', seed=2**62),
        data=DataSettings(source="csv", train="a.csv", columns=("a", "b"), text=("a", "b"), pair="c", train_samples=9),
        adapter=AdapterSettings(layers=(1, 2), alpha=1e-7, targets=("key", "output")),
    )
    assert parse_recipe(to_toml(recipe)) == recipe
    assert to_toml(parse_recipe(to_toml(recipe))) == to_toml(recipe)


SECTIONS = [item.name for item in fields(Recipe) if is_dataclass(getattr(Recipe(), item.name))]
KEYS = [(section, item.name) for section in SECTIONS for item in fields(getattr(Recipe(), section))]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["last:3", "all", "9-1", "3-5", "adamw", "csv", "", "~nobody/x", "\0"])
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=4), VALUES)
def test_no_value_raises_anything_else(given_keys: list[tuple[tuple[str, str], Any]], name: Any) -> None:
    """Whatever stands at a key, the recipe is read, and then equal to itself when written out, or refused with faults."""
    document: dict[str, Any] = {"name": name}
    for (section, key), value in given_keys:
        document.setdefault(section, {})[key] = value
    try:
        recipe = parse_recipe(tomli_w.dumps(document))
    except RecipeError:
        return
    if not any(isinstance(value, float) and math.isnan(value) for _, value in given_keys):
        assert parse_recipe(to_toml(recipe)) == recipe


@pytest.mark.parametrize("words", ["#=1", "#a.b=1", "\n=1"])
def test_an_override_of_a_comment_sign_is_a_fault(words: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe("", [words])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_no_override_raises_anything_else(override: str) -> None:
    for text in (override, f"adapter.rank={override}", f"name={override}"):
        with suppress(RecipeError):
            parse_recipe("", [text])


def test_every_default_is_of_its_own_type() -> None:
    """What the schema says of itself: all defaults, written out in full, are read back as they were."""
    assert parse_recipe(to_toml(Recipe())) == Recipe()
    assert set(tomllib.loads(to_toml(Recipe()))) == {"name", "seed", "device", "server", *SECTIONS}


def test_text_that_is_not_toml_is_told_with_its_origin() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("x = [", origin="mine.toml")
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == ("recipe", "mine.toml")
    assert fault.remedy.startswith("is not TOML: ")
