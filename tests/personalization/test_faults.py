"""Recipes that no method can carry, in words."""

import pytest

from fedfit.aggregation.table import RULES
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.personal_faults import carriers
from fedfit.experiment.validate import validate_offline
from fedfit.personalization.table import METHODS

SHARE = "personalization.few_shot_share"
FINE = ["evaluation.device_test_share=0.2"]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_well(method: str) -> None:
    recipe = parse_recipe("", [*FINE, f"personalization.method={method}"])
    assert validate_offline(recipe) == []
    assert parse_recipe(to_toml(recipe)) == recipe


@pytest.mark.parametrize(
    ("overrides", "key", "value", "remedy"),
    [
        (["personalization.method=fdlorra"], "personalization.method", "fdlorra", "did you mean 'fdlora'"),
        (["federation.devices=1", "federation.devices_per_round=1"], "federation.devices", 1, "at least 2"),
        (["federation.server_optimizer=adam"], "federation.server_optimizer", "adam", "of its own; remove it"),
        (["evaluation.device_test_share=0.0"], "evaluation.device_test_share", 0.0, "set it to 0.2"),
        (["evaluation.models=global"], "evaluation.models", "global", "no device's model is measured"),
        (["personalization.ditto.strength=2.0"], "personalization.ditto", {"strength": 2.0}, "or choose ditto"),
        (["personalization.fdlora.evaluations=1"], "personalization.fdlora.evaluations", 1, "at least 2"),
        (["personalization.fdlora.fusion=sum"], "personalization.fdlora.fusion", "sum", "factors"),
        (["personalization.few_shot_share=0.7"], "personalization.few_shot_share", 0.7, "at most 0.5"),
        (
            ["personalization.fdlora.fusion=none", "personalization.few_shot_share=0.1"],
            "personalization.few_shot_share",
            0.1,
            "fdlora sets no few-shot part aside",
        ),
        (
            ["personalization.method=none", "personalization.few_shot_share=0.1"],
            "personalization.few_shot_share",
            0.1,
            "no method",
        ),
        (["personalization.method=fedper", "adapter.head=freeze"], "personalization.method", "fedper", "none is trained here"),
        (
            ["personalization.method=feddpa", "task.kind=language_modelling"],
            "personalization.method",
            "feddpa",
            "compares prompts, and plain texts have none",
        ),
        (
            ["personalization.method=fedrep", "task.kind=instruction"],
            "personalization.method",
            "fedrep",
            "none is trained here",
        ),
    ],
)
def test_faults(overrides: list[str], key: str, value: object, remedy: str) -> None:
    faults = validate_offline(parse_recipe("", [*FINE, "personalization.method=fdlora", *overrides]))
    (fault,) = (fault for fault in faults if fault.key == key)
    assert fault.value == value
    assert remedy in fault.remedy


def test_the_rules_that_carry_a_method() -> None:
    assert {"fedavg", "ffa_lora", "hetlora", "fslora"} <= set(carriers())
    assert not {"local_only", "fedsa_lora", "flora", "fedex_lora", "scaffold"} & set(carriers())
    for rule in set(RULES) - set(carriers()):
        recipe = parse_recipe("", [*FINE, "personalization.method=ditto", f"federation.rule={rule}"])
        fault = next(fault for fault in validate_offline(recipe) if fault.key == "federation.rule")
        assert "needs a rule that shares one adapter" in fault.remedy
        assert "fedavg" in fault.remedy


def test_misspelt_keys() -> None:
    with pytest.raises(RecipeError, match=r"did you mean personalization.fdlora.penalty"):
        parse_recipe("", ["personalization.fdlora.penaly=0.1"])
    with pytest.raises(RecipeError, match="fedper has no keys of its own"):
        parse_recipe("[personalization.fedper]\nx = 1\n")
