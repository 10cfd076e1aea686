"""What must hold between the aggregation rule and the rest of a recipe: its own keys, the adapter, the server optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from fedfit.errors import Fault
from fedfit.experiment.limits import limit_faults
from fedfit.settings import Recipe

_ADAPTIVE = ("server_learning_rate", "server_momentum", "server_tau")
_OPTIMIZER_READS = {
    "none": (),
    "sgd": ("server_learning_rate",),
    "momentum": ("server_learning_rate", "server_momentum"),
    "nesterov": ("server_learning_rate", "server_momentum"),
    "adagrad": _ADAPTIVE,
    "adam": (*_ADAPTIVE, "server_beta2"),
    "yogi": (*_ADAPTIVE, "server_beta2"),
}


def rule_faults(recipe: Recipe) -> Iterator[Fault]:
    """Combinations that make no sense, and keys that nothing reads."""
    from fedfit.aggregation.table import rule_entry, rule_keys

    yield from _unread(recipe)
    yield from _other_options(recipe)
    try:
        entry = rule_entry(recipe.federation.rule)
    except LookupError:  # reported with the key itself
        return
    keys = rule_keys(recipe)
    limits = list(limit_faults(keys, f"federation.{recipe.federation.rule}.")) if keys is not None else []
    yield from limits
    if not limits:
        traits = entry.traits(keys)
        yield from entry.faults(recipe, keys)
        yield from _optimizer(recipe, traits.supports_server_optimizer)
        yield from _mixed(recipe, traits.mixed_ranks)
        yield from _adapter(recipe, traits.needs)


def able(trait: str) -> str:
    """The rules of the table that have ``trait``, listed."""
    from fedfit.aggregation.table import RULES

    return ", ".join(name for name, entry in RULES.items() if getattr(entry.traits(), trait))


def _optimizer(recipe: Recipe, supported: bool) -> Iterator[Fault]:
    federation = recipe.federation
    if federation.server_optimizer != "none" and not supported:
        remedy = (
            f"{federation.rule} does not keep one adapter whose coordinates mean the same in the next round, "
            f"so they have no momentum; choose rule {able('supports_server_optimizer')}, or none"
        )
        yield Fault("federation.server_optimizer", federation.server_optimizer, remedy)


def _mixed(recipe: Recipe, mixed_ranks: bool) -> Iterator[Fault]:
    if recipe.plan.policy == "per_device" and not mixed_ranks:
        remedy = f"averages one rank; with plan.policy per_device choose {able('mixed_ranks')}"
        yield Fault("federation.rule", recipe.federation.rule, remedy)


def _adapter(recipe: Recipe, needs: str) -> Iterator[Fault]:
    """A rule that works on pairs, with an adapter that has none."""
    from fedfit.adapters.table import ADAPTERS, adapter_kind

    try:
        kind = adapter_kind(recipe.adapter.kind)
    except LookupError:  # reported with the key itself
        return
    if needs == "pairs" and not kind.pairs:
        with_pairs = ", ".join(name for name, other in ADAPTERS.items() if other.pairs)
        remedy = f"federation.rule = {recipe.federation.rule!r} works on pairs of factors; choose {with_pairs}, or rule fedavg"
        yield Fault("adapter.kind", recipe.adapter.kind, remedy)


def _unread(recipe: Recipe) -> Iterator[Fault]:
    """Keys of server optimisers that are set, but that the chosen one does not read."""
    federation = recipe.federation
    if federation.server_optimizer not in _OPTIMIZER_READS:
        return
    chosen = federation.server_optimizer
    keys = {key for each in _OPTIMIZER_READS.values() for key in each} - set(_OPTIMIZER_READS[chosen])
    for item in fields(federation):
        value = getattr(federation, item.name)
        if item.name in keys and value != item.default:
            readers = ", ".join(word for word, read in _OPTIMIZER_READS.items() if item.name in read)
            remedy = f"server_optimizer = {chosen!r} does not read it; remove it, or choose {readers}"
            yield Fault(f"federation.{item.name}", value, remedy)


def _other_options(recipe: Recipe) -> Iterator[Fault]:
    """Keys of rules that are not the recipe's."""
    federation = recipe.federation
    for name, keys in federation.options.items():
        if name != federation.rule:
            remedy = f"federation.rule = {federation.rule!r} does not read it; remove it, or choose rule {name}"
            yield Fault(f"federation.{name}", given_keys(keys), remedy)


def given_keys(keys: Any) -> dict[str, Any]:
    """The keys of a component that are not at their defaults."""
    return {item.name: getattr(keys, item.name) for item in fields(keys) if getattr(keys, item.name) != item.default}
