"""The table of rules, by their name in ``federation.rule``, and the rule of a recipe.

A rule of one's own needs no row here: ``federation.rule = "package.module:ENTRY"`` names a ``RuleEntry``, and so does an entry
point of the group ``fedfit.rules``.
"""

from __future__ import annotations

from typing import Any

from fedfit.aggregation.contract import Context, Rule, RuleEntry
from fedfit.aggregation.rules import (
    coordinatewise,
    fedavg,
    fedex_lora,
    fedsa_lora,
    ffa_lora,
    flasc,
    flexlora,
    flora,
    fslora,
    hetlora,
    hetlora_pruning,
    krum,
    local_only,
    norm_bound,
    rolora,
    scaffold,
    slora,
)
from fedfit.aggregation.server_optimizer import with_server_optimizer
from fedfit.core.plugins import find
from fedfit.settings import Recipe

RULES: dict[str, RuleEntry] = {
    "fedavg": fedavg.ENTRY,
    "ffa_lora": ffa_lora.ENTRY,
    "rolora": rolora.ENTRY,
    "hetlora": hetlora.ENTRY,
    "hetlora_pruning": hetlora_pruning.ENTRY,
    "flexlora": flexlora.ENTRY,
    "fslora": fslora.ENTRY,
    "flora": flora.ENTRY,
    "fedex_lora": fedex_lora.ENTRY,
    "fedsa_lora": fedsa_lora.ENTRY,
    "local_only": local_only.ENTRY,
    "flasc": flasc.ENTRY,
    "slora": slora.ENTRY,
    "scaffold": scaffold.ENTRY,
    "median": coordinatewise.MEDIAN_ENTRY,
    "trimmed_mean": coordinatewise.TRIMMED_MEAN_ENTRY,
    "krum": krum.ENTRY,
    "norm_bound": norm_bound.ENTRY,
}


def rule_entry(name: str) -> RuleEntry:
    """The entry of the rule ``name``: of the table, of an entry point, or by dotted name.

    Raises:
        LookupError: with the reason, for a name that leads to no entry.
    """
    return find(name, RULES, "fedfit.rules", RuleEntry)


def make_rule(recipe: Recipe, holders: int) -> Rule:
    """The rule that ``recipe`` names, with the server optimiser that it asks for.

    Args:
        holders: the number of devices that hold data.

    Raises:
        ValueError: for a combination that makes no sense; ``experiment.rule_faults`` reports it of a recipe before.
    """
    entry = rule_entry(recipe.federation.rule)
    rule = entry.make(rule_keys(recipe), Context(recipe.seed, holders))
    return with_server_optimizer(rule, recipe.federation)


def rule_keys(recipe: Recipe) -> Any:
    """The keys of the recipe's rule: those of ``[federation.<rule>]``, or the defaults."""
    name = recipe.federation.rule
    given = recipe.federation.options.get(name)
    return given if given is not None else rule_entry(name).default_keys()
