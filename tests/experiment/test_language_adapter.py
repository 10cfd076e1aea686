"""The saved adapter of a language model on another machine: how it loads, what it names, and its card."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.model_card import model_card
from tests.builders import chat_tokenizer
from tests.trajectories.asking import TASKS, Asking
from tests.trajectories.world import one_thread_only


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Asking:
    return Asking.make(tmp_path_factory.mktemp("asking"), tiny_models["llama"])


@pytest.fixture(scope="module")
def runs(asking: Asking) -> dict[str, Path]:
    with one_thread_only():
        return {task: asking.run(task, asking.folder / "runs" / task, "training.learning_rate=0.05") for task in TASKS}


def test_peft_builds_base_and_adapter_from_the_folder(
    asking: Asking, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is found by its name: here a folder below the working folder, elsewhere the hub's."""
    monkeypatch.chdir(asking.model.parent)
    ids = torch.tensor([chat_tokenizer()(asking.prompt(asking.test[0]), add_special_tokens=False)["input_ids"]])
    for run in runs.values():
        model = AutoPeftModelForCausalLM.from_pretrained(run / "adapter").eval()
        with torch.no_grad():
            logits, wanted, before = model(ids).logits, asking.tuned(run)(ids).logits, asking.base()(ids).logits
        torch.testing.assert_close(logits, wanted, rtol=0, atol=0)
        assert (wanted - before).abs().max() > 0.01


def test_only_a_classifier_has_names_of_classes_and_no_file_names_a_path(asking: Asking, runs: dict[str, Path]) -> None:
    for run in runs.values():
        files = {path.name for path in (run / "adapter").iterdir()}
        assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert all(str(asking.folder).encode() not in (run / "adapter" / name).read_bytes() for name in files)


def parts_of(text: str) -> tuple[dict[str, Any], str]:
    found: Any = ModelCard(text)
    return found.data.to_dict(), found.text


@pytest.mark.parametrize("task", TASKS)
def test_the_code_of_the_card_answers(
    task: str, asking: Asking, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    front, body = parts_of((runs[task] / "adapter" / "README.md").read_text())
    assert front["pipeline_tag"] == "text-generation"
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    code = code.replace('"."', repr(str(runs[task] / "adapter"))).replace("'model'", repr(str(asking.model)))
    code = re.sub(r"max_new_tokens=\d+", "max_new_tokens=4", code)  # prompt and answer have 80 positions together
    exec(code.replace("a text", "what is b"), {})
    from fedfit import api

    (expected,) = api.load(runs[task]).answers(["what is b"], 4)
    assert " ".join(capsys.readouterr().out.split()) == " ".join(expected.split())


def card(task: str, *overrides: str) -> tuple[dict[str, Any], str]:
    recipe = parse_recipe("", [f"task.kind={task}", *overrides])
    return parts_of(model_card(recipe, {"labels": ["p"], "counts": [[5], [4]]}, ()))


def test_what_the_card_says_of_each_task() -> None:
    front, body = card("preference", "task.loss=kto", "task.beta=0.3", "model.name=owner/base")
    assert (front["metrics"], front["base_model"]) == (["accuracy"], "owner/base")
    assert front["tags"] == ["lora", "federated-learning", "fedfit", "kto"]
    assert "A LoRA adapter of the language model `owner/base`" in body
    assert "| task | preference, by KTO with β = 0.3 against the frozen base |" in body
    assert "| classes |" not in body
    assert "by DPO with β = 0.1 against the model that each device received" in card("preference", "task.reference=received")[1]
    assert card("instruction")[0]["metrics"] == ["perplexity"]
    assert card("instruction", "task.generate_samples=3", "data.answer=a")[0]["metrics"] == ["perplexity", "rouge", "accuracy"]
    assert card("language_modelling")[0]["metrics"] == ["perplexity"]
    assert "| task | language modelling |" in card("language_modelling")[1]


def test_the_packaged_language_model_has_its_licence() -> None:
    front, body = card("instruction", "model.name=smollm2")
    assert (front["base_model"], front["license"]) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert "| licence of the base model | Apache-2.0 |" in body


@pytest.mark.parametrize(
    ("template", "end"), [("alpaca", "### Response:\n"), ('"Q {prompt}\\nA {response}"', "a text\nA ")], ids=["alpaca", "own"]
)
def test_the_code_has_the_recipes_template(template: str, end: str) -> None:
    _, body = card("instruction", f"task.template={template}")
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    (line,) = [line for line in code.splitlines() if line.startswith("text = ")]
    found: dict[str, Any] = {"tokenizer": chat_tokenizer()}
    exec(line, found)
    assert found["text"].startswith("[CLS]")
    assert "a text" in found["text"]
    assert found["text"].endswith(end)
