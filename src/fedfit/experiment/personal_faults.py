"""What must hold between a method of personalisation and the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from fedfit.errors import Fault
from fedfit.experiment.limits import limit_faults
from fedfit.experiment.rule_faults import given_keys
from fedfit.settings import PersonalizationSettings, Recipe

if TYPE_CHECKING:
    from fedfit.personalization.contract import MethodEntry


def personal_faults(recipe: Recipe) -> Iterator[Fault]:
    """Combinations that make no sense, and keys that nothing reads."""
    from fedfit.personalization.table import NONE, method_entry, method_keys

    name = recipe.personalization.method
    yield from _other_options(recipe)
    if name == NONE:
        yield from _unread_share(recipe, "there is no method")
        return
    try:
        entry, keys = method_entry(name), method_keys(recipe)
    except LookupError:  # reported with the key itself
        return
    limits = list(limit_faults(keys, f"personalization.{name}.")) if keys is not None else []
    yield from limits
    yield from _federation(recipe, entry)
    yield from _evaluation(recipe)
    if entry.pairs and not _has_pairs(recipe):
        yield Fault("adapter.kind", recipe.adapter.kind, f"with {name} devices keep LoRA pairs; choose lora")
    if entry.head and (recipe.adapter.head != "train" or _is_language(recipe)):
        yield Fault("personalization.method", name, "it is about the head, and none is trained here; choose fdlora or ditto")
    if not limits:
        yield from entry.faults(recipe, keys)
        if not entry.make(keys, recipe).few_shot:
            yield from _unread_share(recipe, f"{name} sets no few-shot part aside")


def home_faults(recipe: Recipe, adapted: int) -> Iterator[Fault]:
    """Layers at home, held to the number of layers that the adapter is on."""
    from fedfit.personalization.table import make_method

    try:
        method = make_method(recipe)
    except LookupError:  # reported with the key itself
        return
    if method is not None and method.home_layers >= adapted:
        remedy = f"adapter.layers adapts {adapted}, and one of them at least is shared; lower it, or adapt more layers"
        yield Fault(f"personalization.{recipe.personalization.method}.own_layers", method.home_layers, remedy)


def _federation(recipe: Recipe, entry: MethodEntry) -> Iterator[Fault]:
    """The rounds beside which the method runs."""
    federation, name = recipe.federation, recipe.personalization.method
    if federation.devices < 2:
        yield Fault("federation.devices", federation.devices, f"{name} shares between devices; there must be at least 2")
    if entry.server_step and federation.server_optimizer != "none":
        remedy = f"{name} has a server's step of its own; remove it"
        yield Fault("federation.server_optimizer", federation.server_optimizer, remedy)
    able = carriers()
    if not _carries(federation.rule):
        remedy = (
            f"personalization.method = {name!r} needs a rule that shares one adapter and keeps nothing of a device's own; "
            f"choose one of {', '.join(able)}"
        )
        yield Fault("federation.rule", federation.rule, remedy)


def _evaluation(recipe: Recipe) -> Iterator[Fault]:
    evaluation = recipe.evaluation
    if not evaluation.device_test_share:
        remedy = "a device's own model is measured on samples of its own; set it to 0.2, for example"
        yield Fault("evaluation.device_test_share", evaluation.device_test_share, remedy)
    if evaluation.models == "global":
        remedy = "then no device's model is measured; choose auto, devices or both, or personalization.method = none"
        yield Fault("evaluation.models", evaluation.models, remedy)


def carriers() -> list[str]:
    """The rules of the table beside which a method can run."""
    from fedfit.aggregation.table import RULES

    return [name for name in RULES if _carries(name)]


def _carries(rule: str) -> bool:
    from fedfit.aggregation.table import rule_entry

    try:
        traits = rule_entry(rule).traits()
    except LookupError:  # reported with the key itself
        return True
    return traits.supports_server_optimizer and traits.shares and not traits.private


def _has_pairs(recipe: Recipe) -> bool:
    from fedfit.adapters.table import adapter_kind

    try:
        return adapter_kind(recipe.adapter.kind).pairs
    except LookupError:  # reported with the key itself
        return True


def _is_language(recipe: Recipe) -> bool:
    from fedfit.tasks.table import task_entry

    try:
        return task_entry(recipe.task.kind).language
    except LookupError:  # reported with the key itself
        return False


def _other_options(recipe: Recipe) -> Iterator[Fault]:
    """Keys of methods that are not the recipe's."""
    for name, keys in recipe.personalization.options.items():
        if name != recipe.personalization.method:
            remedy = f"personalization.method = {recipe.personalization.method!r} does not read it; remove it, or choose {name}"
            yield Fault(f"personalization.{name}", given_keys(keys), remedy)


def _unread_share(recipe: Recipe, why: str) -> Iterator[Fault]:
    default = next(item.default for item in fields(PersonalizationSettings) if item.name == "few_shot_share")
    share = recipe.personalization.few_shot_share
    if share != default:
        yield Fault("personalization.few_shot_share", share, f"{why}; remove it, or choose fdlora")
