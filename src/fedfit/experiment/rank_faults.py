"""What must hold between the ranks that devices are given and the rule, the plan and the global rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedfit.errors import Fault
from fedfit.experiment.rule_faults import able
from fedfit.schema import Draw
from fedfit.settings import Recipe

if TYPE_CHECKING:
    from fedfit.aggregation.contract import Traits


def rank_faults(recipe: Recipe) -> Iterator[Fault]:
    """Faults of ``federation.ranks`` and ``federation.rank_shares``, and of a plan under a rule whose rank cannot move."""
    federation, traits = recipe.federation, _traits(recipe)
    moving = ("joint", "random_frequency", *(["per_device"] if traits is not None and traits.mixed_ranks else []))
    if traits is not None and traits.fixed_rank and recipe.plan.policy in moving:
        yield Fault("plan.policy", recipe.plan.policy, f"{federation.rule} needs one rank from first to last; choose fixed")
    if federation.ranks is not None:
        yield from _given(recipe, "federation.ranks", federation.ranks)
        yield from _one_rank(recipe, traits, "federation.ranks", federation.ranks)
        yield from _too_high(recipe, federation.ranks)
    shares = federation.rank_shares
    if shares is not None:
        yield from _given(recipe, "federation.rank_shares", shares)
        yield from _one_rank(recipe, traits, "federation.rank_shares", shares)
        if federation.ranks is not None:
            yield Fault("federation.rank_shares", shares, "federation.ranks gives the ranks already; remove one")
        if isinstance(shares, tuple) and not all(0 < share <= 1 for share in shares):
            yield Fault("federation.rank_shares", list(shares), "each must be above 0 and at most 1, the whole global rank")


def _traits(recipe: Recipe) -> Traits | None:
    """The traits of the recipe's rule; ``None`` for a rule that does not exist, which is reported with its own key."""
    from fedfit.aggregation.table import rule_entry, rule_keys

    try:
        return rule_entry(recipe.federation.rule).traits(rule_keys(recipe))
    except LookupError:
        return None


def _one_rank(recipe: Recipe, traits: Traits | None, key: str, given: object) -> Iterator[Fault]:
    if traits is not None and not traits.mixed_ranks:
        remedy = f"{recipe.federation.rule} averages one rank; choose {able('mixed_ranks')}, or remove it"
        yield Fault(key, given, remedy)


def _given(recipe: Recipe, key: str, given: tuple[float, ...] | Draw) -> Iterator[Fault]:
    """What holds of both: one for each device, and no plan beside."""
    devices, policy = recipe.federation.devices, recipe.plan.policy
    if policy not in ("none", "fixed"):
        yield Fault(key, given, f"the plan gives the ranks (plan.policy = {policy!r}); remove one")
    if isinstance(given, tuple) and len(given) != devices:
        yield Fault(
            key, list(given), f"there are {devices} devices; give each its {'rank' if key.endswith('ranks') else 'own'}"
        )


def _too_high(recipe: Recipe, ranks: tuple[int, ...] | Draw) -> Iterator[Fault]:
    shown = list(ranks) if isinstance(ranks, tuple) else ranks
    reachable = ranks if isinstance(ranks, tuple) else ranks.values[: 1 if ranks.kind == "lognormal" else None]
    if max(reachable, default=1) > recipe.adapter.rank:
        remedy = f"adapter.rank = {recipe.adapter.rank} is the global one, and no device can have more; raise it"
        yield Fault("federation.ranks", shown, remedy)
    if isinstance(ranks, tuple) and min(ranks, default=1) < 1:
        yield Fault("federation.ranks", shown, "must be at least 1")
