"""What must hold between the aggregation rule and what is set round it: server optimiser, robust mean, and their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from fedfit.errors import Fault
from fedfit.settings import FederationSettings, Recipe

_ADAPTIVE = ("server_learning_rate", "server_momentum", "server_tau")
_OPTIMIZER_READS = {
    "none": (),
    "sgd": ("server_learning_rate",),
    "momentum": ("server_learning_rate", "server_momentum"),
    "adagrad": _ADAPTIVE,
    "adam": (*_ADAPTIVE, "server_beta2"),
    "yogi": (*_ADAPTIVE, "server_beta2"),
}
_ROBUST_READS = {"none": (), "median": (), "trimmed_mean": ("trim",), "krum": ("suspected",), "norm_bound": ("norm_bound",)}


def rule_faults(recipe: Recipe) -> Iterator[Fault]:
    """Combinations that make no sense, and keys that nothing reads. Rules and words that do not exist are told elsewhere."""
    yield from _optimizer(recipe)
    yield from _robust(recipe)
    yield from _unread(recipe.federation, "server_optimizer", _OPTIMIZER_READS)
    yield from _unread(recipe.federation, "robust", _ROBUST_READS)


def _optimizer(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.aggregation.rules import RULES

    federation, rule = recipe.federation, RULES.get(recipe.federation.rule)
    if federation.server_optimizer != "none" and rule is not None and not rule.keeps_pair:
        able = ", ".join(name for name, other in RULES.items() if other.keeps_pair)
        remedy = (
            f"{federation.rule} does not keep one pair of factors whose coordinates mean the same in the next round, "
            f"so they have no momentum; choose rule {able}, or none"
        )
        yield Fault("federation.server_optimizer", federation.server_optimizer, remedy)


def _robust(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.aggregation.rules import RULES

    federation = recipe.federation
    robust, rule = federation.robust, federation.rule
    if robust != "none" and rule != "fedavg" and rule in RULES:
        yield Fault("federation.robust", robust, f"it takes the place of fedavg's mean, and {rule} has another; choose none")
    elif robust != "none" and (federation.ranks is not None or recipe.plan.policy == "per_device"):
        yield Fault("federation.robust", robust, "factors of mixed ranks have no coordinates in common; give devices one rank")
    if robust == "trimmed_mean" and federation.trim >= 0.5:
        yield Fault("federation.trim", federation.trim, "half at each end is everything; set it below 0.5")
    least = 2 * federation.suspected + 3
    if robust == "krum" and federation.devices_per_round < least:
        remedy = (
            f"krum then needs at least 2·{federation.suspected} + 3 = {least} devices a round, and "
            f"federation.devices_per_round = {federation.devices_per_round}; raise that, or lower it"
        )
        yield Fault("federation.suspected", federation.suspected, remedy)
    if robust == "norm_bound" and federation.norm_bound is None:
        yield Fault("federation.norm_bound", None, 'robust = "norm_bound" needs the norm that a whole update may move by')


def _unread(federation: FederationSettings, chooser: str, reads: dict[str, tuple[str, ...]]) -> Iterator[Fault]:
    """Keys that are set, but that the word chosen for ``chooser`` does not read."""
    chosen = getattr(federation, chooser)
    if chosen not in reads:
        return
    keys = {key for each in reads.values() for key in each} - set(reads[chosen])
    for item in fields(federation):
        value = getattr(federation, item.name)
        if item.name in keys and value != item.default:
            able = ", ".join(word for word, read in reads.items() if item.name in read)
            yield Fault(
                f"federation.{item.name}", value, f"{chooser} = {chosen!r} does not read it; remove it, or choose {able}"
            )
