import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPTNeoConfig,
)

from fedfit.errors import ModelError
from fedfit.models import packaged
from fedfit.models.families import FAMILIES, GENERATING, family_of
from fedfit.models.load import load_config, load_model, load_tokenizer, locate, public_name
from fedfit.settings import AdapterSettings
from tests.builders import TAKES_SEGMENTS, TINY_MODELS, tiny_split


@pytest.mark.parametrize("config", [AlbertConfig(num_hidden_layers=1), GPTNeoConfig(num_layers=24)], ids=["albert", "gpt_neo"])
def test_an_unsupported_family_is_refused_by_name_with_the_list(config: AlbertConfig | GPTNeoConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_config(str(tmp_path))
    assert repr(config.model_type) in str(caught.value)
    for supported in FAMILIES:
        assert supported in str(caught.value)


def test_family_of_knows_its_table() -> None:
    assert {name: family_of(name).name for name in FAMILIES} == {name: name for name in FAMILIES}


def test_a_hub_name_that_is_nowhere_is_refused_with_the_remedies() -> None:
    with pytest.raises(ModelError, match=r"'no/such-model'.*minilm.*hub name.*folder"):
        load_model("no/such-model", 2, seed=0)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("/nope", "/nope"),
        ("/nope/deeper/model", "/nope"),
        ("./nope", "nope"),
        ("../nope/model", "../nope"),
        ("~/nope-nope", "nope-nope"),
        ("a/b/c", "a"),
        ("nope/", "nope"),
    ],
)
def test_a_path_that_does_not_exist_is_said_to_be_missing_and_not_looked_for_on_the_hub(
    name: str, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    with pytest.raises(ModelError, match=rf"{re.escape(missing)} does not exist; give the folder.*alias.*hub name") as caught:
        load_config(name)
    assert repr(name) in str(caught.value)


def test_a_folder_without_a_configuration_and_a_file_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json; give the folder"):
        load_config(str(tmp_path))
    (tmp_path / "model").write_text("")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_config(str(tmp_path / "model"))


def test_a_home_folder_is_found(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_bert.parent))
    assert load_config(f"~/{tiny_bert.name}").model_type == "bert"


@pytest.mark.parametrize("saved", ["encoder", "masked", "classifier"])
def test_loading_and_wrapping_print_nothing(saved: str, tmp_path: Path) -> None:
    """A fresh head, heads of another task and parts to come in later versions are expected, and no news to the user."""
    kinds = {"encoder": AutoModel, "masked": AutoModelForMaskedLM, "classifier": AutoModelForSequenceClassification}
    kinds[saved].from_config(TINY_MODELS["roberta"]()).save_pretrained(tmp_path)
    script = f"from tests.builders import tiny_split; tiny_split({str(tmp_path)!r}, labels=5)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_alias_without_its_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PACKAGED", {"minilm": replace(packaged.PACKAGED["minilm"], module="no_such_module")})
    with pytest.raises(ModelError, match=r"pip install 'fedfit\[demo\]'"):
        locate("minilm")


def test_the_fresh_head_is_drawn_from_the_seed_and_leaves_the_callers_generator_alone(tiny_bert: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, again, other = (load_model(str(tiny_bert), 5, seed).state_dict() for seed in (1, 1, 2))
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {"classifier.weight"}


def test_the_model_comes_frozen_in_eval_mode_and_float32(tiny_bert: Path) -> None:
    model = load_model(str(tiny_bert), 2, seed=0)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_language_model_comes_with_its_own_head_and_an_encoder_has_none(tiny_models: dict[str, Path]) -> None:
    for family, folder in tiny_models.items():
        if family not in GENERATING:
            words = rf"{re.escape(repr(str(folder)))} is of the family '{family}', an encoder.*llama, mistral.*gpt2.*task\.kind"
            with pytest.raises(ModelError, match=words):
                load_model(str(folder), None, seed=0)
            continue
        model = load_model(str(folder), None, seed=0)
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert type(model) is type(plain)
        assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_layers_the_model_does_not_have_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(ValueError, match="layers 0 to 3"):
        tiny_split(tiny_bert, layers="3-4")


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_load_as_the_auto_classes_and_we_load_them(family: str, tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(tiny_models[family]))
    encoded = tokenizer("a cat")
    assert encoded["input_ids"] == AutoTokenizer.from_pretrained(tiny_models[family])("a cat")["input_ids"]
    assert encoded["input_ids"][0] == tokenizer.cls_token_id
    assert ("token_type_ids" in encoded) == (family in TAKES_SEGMENTS)
    assert load_config(str(tiny_models[family])).num_hidden_layers == 4
    assert AdapterSettings().targets == ("query", "value")


def test_a_head_saved_for_other_labels_is_replaced(tiny_bert: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), 5, seed=0).get_parameter("classifier.weight").shape == (5, 32)


def test_damaged_weights_are_told_in_words(tiny_bert: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(tmp_path), 2, seed=0)


def test_the_name_on_another_machine(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_bert)
    names = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "FacebookAI/roberta-base": "FacebookAI/roberta-base"}
    assert {name: public_name(name) for name in names} == names
    assert [public_name(name) for name in (str(tiny_bert), f"{tiny_bert}/", ".")] == ["bert"] * 3
