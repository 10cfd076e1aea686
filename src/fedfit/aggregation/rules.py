"""The table of rules, by their name in a recipe."""

from __future__ import annotations

from fedfit.aggregation.base import Rule
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.flexlora import FlexLora

RULES: dict[str, type[Rule]] = {"fedavg": FedAvg, "flexlora": FlexLora}
