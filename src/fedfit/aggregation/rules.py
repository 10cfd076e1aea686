"""The table of rules, by their name in a recipe, and a rule made from its settings."""

from __future__ import annotations

from collections.abc import Callable

from fedfit.aggregation.base import Rule
from fedfit.aggregation.compose import compose
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.fedex_lora import FedExLora
from fedfit.aggregation.fedsa_lora import FedSaLora
from fedfit.aggregation.ffa_lora import FfaLora
from fedfit.aggregation.flasc import Flasc
from fedfit.aggregation.flexlora import FlexLora
from fedfit.aggregation.flora import Flora
from fedfit.aggregation.fslora import FsLora
from fedfit.aggregation.hetlora import HetLora
from fedfit.aggregation.hetlora_pruning import PruningHetLora
from fedfit.aggregation.local_only import LocalOnly
from fedfit.aggregation.rolora import RoLora
from fedfit.aggregation.scaffold import Scaffold
from fedfit.aggregation.slora import Slora
from fedfit.settings import Recipe

RULES: dict[str, type[Rule]] = {
    "fedavg": FedAvg,
    "ffa_lora": FfaLora,
    "rolora": RoLora,
    "hetlora": HetLora,
    "flexlora": FlexLora,
    "fslora": FsLora,
    "flora": Flora,
    "fedex_lora": FedExLora,
    "fedsa_lora": FedSaLora,
    "local_only": LocalOnly,
    "flasc": Flasc,
    "slora": Slora,
}

_READING: dict[str, Callable[[Recipe], Rule]] = {
    "hetlora": lambda recipe: _hetlora(recipe.federation.pruning, recipe.federation.pruning_penalty),
    "fslora": lambda recipe: FsLora(per_module=recipe.federation.sketch == "per_module"),
    "flasc": lambda recipe: Flasc(recipe.federation.download_density, recipe.federation.upload_density),
    "slora": lambda recipe: Slora(recipe.seed, recipe.federation.sparse_rounds, recipe.federation.sparse_density),
}
"""The rules that read keys of their own."""


def _hetlora(gamma: float, penalty: float) -> Rule:
    return PruningHetLora(gamma, penalty) if gamma < 1 else HetLora()


def make_rule(recipe: Recipe, holders: int) -> Rule:
    """The rule that ``recipe`` names, with control variates, the robust mean and the server optimiser that it asks for.

    Args:
        holders: the devices that hold data.

    Raises:
        ValueError: for a combination that makes no sense; ``experiment.rule_faults`` tells it of a recipe before.
    """
    name = recipe.federation.rule
    rule = _READING[name](recipe) if name in _READING else RULES[name]()
    if recipe.training.scaffold:
        if type(rule) is not FedAvg:
            raise ValueError(f"SCAFFOLD is FedAvg with control variates; {type(rule).__name__} has another mean")
        rule = Scaffold(holders)
    return compose(rule, recipe.federation)
