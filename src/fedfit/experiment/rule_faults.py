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
_RULE_READS = {
    "fslora": ("sketch", "sketch_ratios"),
    "hetlora": ("pruning", "pruning_penalty"),
    "flasc": ("download_density", "upload_density"),
    "slora": ("sparse_rounds", "sparse_density"),
}


def rule_faults(recipe: Recipe) -> Iterator[Fault]:
    """Combinations that make no sense, and keys that nothing reads. Rules and words that do not exist are told elsewhere."""
    from fedfit.aggregation.rules import RULES

    yield from _optimizer(recipe)
    yield from _pruning(recipe)
    yield from _robust(recipe)
    yield from _scaffold(recipe)
    yield from _slora(recipe.federation)
    yield from _unread(recipe.federation, "server_optimizer", _OPTIMIZER_READS)
    yield from _unread(recipe.federation, "robust", _ROBUST_READS)
    yield from _unread(recipe.federation, "rule", {**dict.fromkeys(RULES, ()), **_RULE_READS})


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


def _pruning(recipe: Recipe) -> Iterator[Fault]:
    federation = recipe.federation
    if federation.rule != "hetlora":
        return
    if federation.pruning < 1 and recipe.plan.policy != "none":
        remedy = (
            f"no plan knows of devices' shrinking ranks (plan.policy = {recipe.plan.policy!r}); set it to 1, or policy to none"
        )
        yield Fault("federation.pruning", federation.pruning, remedy)
    if federation.pruning < 1 and federation.server_optimizer != "none":
        remedy = "no server optimiser goes with devices' shrinking ranks; set it to 1"
        yield Fault("federation.pruning", federation.pruning, remedy)
    default = FederationSettings.pruning_penalty
    if federation.pruning == 1 and federation.pruning_penalty != default:
        remedy = "pruning = 1 never prunes, so nothing reads it; remove it, or set pruning below 1"
        yield Fault("federation.pruning_penalty", federation.pruning_penalty, remedy)


def _robust(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.aggregation.rules import RULES

    federation = recipe.federation
    robust, rule = federation.robust, federation.rule
    if robust != "none" and rule != "fedavg" and rule in RULES:
        yield Fault("federation.robust", robust, f"it takes the place of fedavg's mean, and {rule} has another; choose none")
    elif robust != "none" and (federation.ranks is not None or recipe.plan.policy == "per_device"):
        yield Fault("federation.robust", robust, "factors of mixed ranks have no coordinates in common; give devices one rank")
    if robust in ("median", "trimmed_mean", "krum") and federation.weighting == "samples":
        yield Fault("federation.weighting", "samples", f"{robust} weighs nothing; remove it")
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


def _scaffold(recipe: Recipe) -> Iterator[Fault]:
    federation, training = recipe.federation, recipe.training
    if not training.scaffold:
        return
    alone = {"rule": "fedavg", "robust": "none", "server_optimizer": "none"}
    other = {key: getattr(federation, key) for key, word in alone.items() if getattr(federation, key) != word}
    if other:
        found = " and ".join(f"federation.{key} = {word!r}" for key, word in other.items())
        wanted = " and ".join(f"federation.{key} to {alone[key]!r}" for key in other)
        remedy = f"it is fedavg with control variates, which fit no other mean and no server optimiser, and {found}"
        yield Fault("training.scaffold", True, f"{remedy}; set {wanted}, or it to false")
    if federation.weighting == "samples":
        remedy = "training.scaffold lets devices weigh alike, as its control variates do; choose rule or uniform"
        yield Fault("federation.weighting", "samples", remedy)
    if recipe.plan.policy in ("joint", "random_frequency") and federation.rule == "fedavg":
        remedy = "training.scaffold needs one rank from first to last; choose fixed"
        yield Fault("plan.policy", recipe.plan.policy, remedy)
    summed = "training.scaffold takes the sum of the gradients from how far a device moved"
    if training.optimizer != "sgd":
        yield Fault("training.optimizer", training.optimizer, f"{summed}; set it to sgd")
    elif training.momentum:
        yield Fault("training.momentum", training.momentum, f"{summed}; set it to 0")
    if training.precision == "fp16":
        remedy = f"{summed}, and fp16 leaves out steps that overflow; choose bf16 or fp32"
        yield Fault("training.precision", "fp16", remedy)


def _slora(federation: FederationSettings) -> Iterator[Fault]:
    if federation.rule == "slora" and federation.sparse_rounds >= federation.rounds:
        remedy = f"there are {federation.rounds} rounds, and the factors are trained after these; lower it, or raise rounds"
        yield Fault("federation.sparse_rounds", federation.sparse_rounds, remedy)


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
