"""Recipes whose task does not fit the rest: every fault names key, value and remedy."""

from pathlib import Path

import pytest

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline

INSTRUCTION = ["task.kind=instruction", "data.source=jsonl", "data.train=a", "data.test=b"]


def faults(*overrides: str) -> dict[str, tuple[object, str]]:
    return {fault.key: (fault.value, fault.remedy) for fault in validate_offline(parse_recipe("", list(overrides)))}


@pytest.mark.parametrize(
    ("overrides", "key", "value", "remedy"),
    [
        (["task.kind=instruct"], "task.kind", "instruct", "did you mean 'instruction'?"),
        ([*INSTRUCTION, "task.template=plain"], "task.template", "plain", 'choose "chat" or "alpaca", or write a text that'),
        ([*INSTRUCTION, "task.template='{response} {prompt}'"], "task.template", "{response} {prompt}", "{prompt} must stand"),
        ([*INSTRUCTION, "task.beta=0.5"], "task.beta", 0.5, "instruction does not read it; remove it, or choose preference"),
        (["task.max_new_tokens=5"], "task.max_new_tokens", 5, "classification does not read it; remove it, or choose instr"),
        (
            ["task.kind=language_modelling", "task.template=alpaca"],
            "task.template",
            "alpaca",
            "language_modelling does not read it",
        ),
        ([*INSTRUCTION, "task.metrics=['accuracy']"], "task.metrics", ["accuracy"], "instruction measures all that it has"),
        (["data.response=r"], "data.response", "r", "the task classification does not read it; remove it"),
        ([*INSTRUCTION, "data.label=l"], "data.label", "l", "the task instruction does not read it; remove it"),
        ([*INSTRUCTION, "data.choices=['a','b']"], "data.choices", ["a", "b"], "data.answer must name the column"),
        (["task.kind=preference"], "task.kind", "preference", 'data.source = "pydocs" has texts with classes; choose class'),
        (["data.source=pydocs-instruct"], "task.kind", "classification", "has prompts with responses; choose instruction"),
        (["data.source=domains", "task.kind=preference"], "task.kind", "preference", "has prompts with responses; choose inst"),
        (
            ["data.source=persona", "task.kind=instruction"],
            "task.kind",
            "instruction",
            "better and a worse response; choose pref",
        ),
        (["data.source=shakespeare"], "task.kind", "classification", "has texts without classes; choose language_modelling"),
        ([*INSTRUCTION, "partition.kind=dirichlet"], "partition.kind", "dirichlet", "deals by class, and this task has none"),
        ([*INSTRUCTION, "training.target_accuracy=0.9"], "training.target_accuracy", 0.9, "has no accuracy over classes"),
        (["task.metrics=['f1']"], "task.positive", None, "task.metrics has f1, which is of one class; name the class"),
        (["task.positive=anomaly"], "task.positive", "anomaly", "task.metrics has none of f1, precision, recall"),
        (["task.kind=language_modelling", "task.positive=a"], "task.positive", "a", "language_modelling does not read it"),
        (["evaluation.device_test_column=c"], "evaluation.device_test_column", "c", "set evaluation.device_test_share to 0.3"),
        (["task.kind=preference", "task.loss=dop"], "task.loss", "dop", "did you mean 'dpo'?"),
        (["task.kind=preference", "data.source=csv", "task.beta=0"], "task.beta", 0.0, "must be above 0"),
    ],
)
def test_a_fault(overrides: list[str], key: str, value: object, remedy: str) -> None:
    found = faults(*overrides)
    assert key in found, found
    assert found[key][0] == value
    assert remedy in found[key][1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.source=csv", "data.train=a", "data.test=b", "data.pair=p", "data.label=l"],
        [*INSTRUCTION, "data.answer=x", "data.choices=['a','b']", "task.max_new_tokens=5", "task.generate_samples=2"],
        [*INSTRUCTION[1:], "task.kind=preference", "data.chosen=c", "task.loss=kto", "task.reference=received"],
        [*INSTRUCTION[1:], "task.kind=preference", "task.template=alpaca", "task.max_new_tokens=5"],
        ["task.kind=language_modelling", "task.max_new_tokens=5"],
        ["task.kind=instruction", "data.source=commonsense", "partition.kind=by_column", "partition.column=client"],
        ["task.kind=preference", "data.source=truthfulqa"],
        ["task.kind=language_modelling", "data.source=shakespeare"],
    ],
)
def test_what_fits(overrides: list[str], tmp_path: Path) -> None:
    assert faults(*overrides) == {}
