"""The table of rules, by their name in a recipe, and a rule made from its settings."""

from __future__ import annotations

from fedfit.aggregation.base import Rule
from fedfit.aggregation.compose import compose
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.ffa_lora import FfaLora
from fedfit.aggregation.flexlora import FlexLora
from fedfit.aggregation.fslora import FsLora
from fedfit.aggregation.hetlora import HetLora
from fedfit.aggregation.rolora import RoLora
from fedfit.settings import FederationSettings

RULES: dict[str, type[Rule]] = {
    "fedavg": FedAvg,
    "ffa_lora": FfaLora,
    "rolora": RoLora,
    "hetlora": HetLora,
    "flexlora": FlexLora,
    "fslora": FsLora,
}


def make_rule(settings: FederationSettings) -> Rule:
    """The rule that a recipe names, with the robust mean and the server optimiser that it asks for."""
    return compose(RULES[settings.rule](), settings)
