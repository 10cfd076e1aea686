"""The folder of a saved adapter on another machine: how it loads, what it names, and its card."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import fedfit
from fedfit import api
from fedfit.core.task import Metric
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.model_card import model_card
from fedfit.models.load import public_name
from fedfit.records import RoundRecord
from tests.trajectories.world import World, one_thread_only

CLASSES = ["art", "law", "sport"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="module")
def finished(world: World) -> Path:
    with one_thread_only():
        return world.run(world.folder / "run")


def test_no_file_names_a_path_of_this_machine(finished: Path, tiny_bert: Path) -> None:
    for path in (finished / "adapter").iterdir():
        assert str(tiny_bert.parent).encode() not in path.read_bytes(), path.name
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "bert"
    assert public_name("minilm") == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_configuration_names_the_classes(finished: Path) -> None:
    config = AutoConfig.from_pretrained(finished / "adapter")
    assert [config.id2label[number] for number in range(3)] == CLASSES
    assert (config.num_labels, config.label2id) == (3, {name: number for number, name in enumerate(CLASSES)})
    assert config.architectures == ["BertForSequenceClassification"]


def test_peft_builds_base_and_adapter_from_the_folder(
    world: World, finished: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is found by its name: here a folder below the working folder, elsewhere the hub's."""
    monkeypatch.chdir(tiny_bert.parent)
    adapter = finished / "adapter"
    labels = AutoConfig.from_pretrained(adapter)
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, id2label=labels.id2label, label2id=labels.label2id)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, config=labels)
    plain = PeftModel.from_pretrained(base, adapter).eval()
    texts = pd.read_csv(world.test)["text"].tolist()
    tokens = AutoTokenizer.from_pretrained("bert")(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits, other = model.eval()(**tokens).logits, plain(**tokens).logits
    torch.testing.assert_close(logits, other, rtol=0, atol=0)
    names = [model.config.id2label[int(number)] for number in logits.argmax(dim=1)]
    assert names == [each.label for each in api.load(finished).predict(texts)]


def test_the_plain_call_of_peft_takes_the_two_classes_of_the_base(
    finished: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the call above names the classes: PEFT reads no configuration beside the adapter."""
    monkeypatch.chdir(tiny_bert.parent)
    with pytest.raises(RuntimeError, match="size mismatch"):
        AutoPeftModelForSequenceClassification.from_pretrained(finished / "adapter")


def card_of(adapter: Path) -> tuple[dict[str, object], str]:
    return parts_of((adapter / "README.md").read_text())


def parts_of(text: str) -> tuple[dict[str, object], str]:
    """Front matter and body, as the hub reads them."""
    found: Any = ModelCard(text)
    return found.data.to_dict(), found.text


def test_the_code_of_the_card_works(finished: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, body = card_of(finished / "adapter")
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    assert "\".\", 'bert'" in code
    assert "give the path of yours" in body
    text = pd.read_csv(finished.parent / "test.csv")["text"][0]
    code = code.replace('"."', repr(str(finished / "adapter"))).replace("'bert'", repr(str(tiny_bert))).replace("a text", text)
    exec(code, {})
    assert capsys.readouterr().out.splitlines()[-1] == api.load(finished).predict([text])[0].label


def test_what_the_card_says(finished: Path, world: World) -> None:
    front, body = card_of(finished / "adapter")
    assert front == {
        "library_name": "peft",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-classification",
        "tags": ["lora", "federated-learning", "fedfit"],
    }
    last = api.load(finished).rounds[-1]
    for words in (
        "`bert`",
        "see the base model's page",
        "`art`, `law`, `sport`",
        "| training samples | 45 |",
        "csv files `train.csv`, `test.csv`",
        "| rule | fedavg |",
        "LoRA of rank 4",
        "layers last:2, query, value",
        "| devices | 3, 2 a round |",
        "After round 3:",
        f"| test_accuracy | {last.metrics['test_accuracy'].value:.4f} |",
        f"with fedfit {fedfit.__version__}",
        "cut to 16 tokens",
    ):
        assert words in body
    assert str(world.folder) not in body


def card(*overrides: str, records: tuple[RoundRecord, ...] = ()) -> tuple[dict[str, object], str]:
    text = model_card(parse_recipe("", overrides), {"labels": ["a", "b"], "counts": [[2, 3], [4, 0]]}, records)
    return parts_of(text)


def test_a_packaged_model_has_its_hub_name_and_licence() -> None:
    front, body = card("data.source=mrpc", 'task.metrics=["mcc", "accuracy"]')
    assert (front["base_model"], front["license"]) == ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")
    assert "| licence of the base model | Apache-2.0 |" in body
    assert front["datasets"] == ["nyu-mll/glue"]
    assert "| training samples | 9 |" in body
    assert "None were measured." in body


def test_a_model_of_the_hub_has_no_licence_of_ours() -> None:
    front, body = card("model.name=FacebookAI/roberta-base", "data.source=hub", "data.name=owner/set")
    assert (front["base_model"], "license" in front, front["datasets"]) == ("FacebookAI/roberta-base", False, ["owner/set"])
    assert "see the base model's page" in body


def test_the_last_round_that_was_measured_is_on_the_card() -> None:
    one = RoundRecord(1, {"test_accuracy": Metric(0.75)}, None, 0, 0, 0.0)
    _, body = card(records=(one, replace(one, round=2, metrics={})))
    assert "After round 1:" in body
    assert "| test_accuracy | 0.7500 |" in body
    assert "| rounds | 2 |" in body


@pytest.mark.parametrize("rule", ["fedsa_lora", "local_only"])
def test_a_rule_with_private_parts_is_named(rule: str) -> None:
    _, body = card(f"federation.rule={rule}")
    assert f"{rule} " in body
    assert "not the model of any device." in body
    assert "not the model of any device" not in card()[1]
