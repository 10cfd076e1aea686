"""What must hold between the ranks that devices are given and the rule, the plan and the global rank."""

from __future__ import annotations

from collections.abc import Iterator

from fedfit.errors import Fault
from fedfit.schema import Draw
from fedfit.settings import Recipe


def rank_faults(recipe: Recipe) -> Iterator[Fault]:
    """Faults of ``federation.ranks`` and ``federation.sketch_ratios``, and of a plan under a rule whose rank cannot move."""
    from fedfit.aggregation.rules import RULES

    federation, rule = recipe.federation, RULES.get(recipe.federation.rule)
    moving = ("joint", "random_frequency", *(["per_device"] if rule is not None and rule.mixed_ranks else []))
    if rule is not None and rule.fixed_rank and recipe.plan.policy in moving:
        yield Fault("plan.policy", recipe.plan.policy, f"{federation.rule} needs one rank from first to last; choose fixed")
    if federation.ranks is not None:
        yield from _given(recipe, "federation.ranks", federation.ranks)
        if rule is not None and not rule.mixed_ranks:
            able = ", ".join(name for name, other in RULES.items() if other.mixed_ranks)
            remedy = f"{federation.rule} averages one rank; choose {able}, or remove it"
            yield Fault("federation.ranks", federation.ranks, remedy)
        yield from _too_high(recipe, federation.ranks)
    ratios = federation.sketch_ratios
    if ratios is not None:
        yield from _given(recipe, "federation.sketch_ratios", ratios)
        if federation.ranks is not None:
            yield Fault("federation.sketch_ratios", ratios, "federation.ranks gives the ranks already; remove one")
        if isinstance(ratios, tuple) and not all(0 < ratio <= 1 for ratio in ratios):
            yield Fault("federation.sketch_ratios", list(ratios), "each must be above 0 and at most 1, the whole global rank")


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
