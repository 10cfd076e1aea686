"""A rule with what a recipe sets round it: a robust mean in its place, and a server optimiser around that."""

from __future__ import annotations

from collections.abc import Callable

from fedfit.aggregation.base import Rule
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.krum import Krum
from fedfit.aggregation.norm_bound import NormBound
from fedfit.aggregation.robust import Median, TrimmedMean
from fedfit.aggregation.server_optimizer import ServerOptimizer
from fedfit.settings import FederationSettings

ROBUST: dict[str, Callable[[FederationSettings], Rule]] = {
    "median": lambda settings: Median(),
    "trimmed_mean": lambda settings: TrimmedMean(settings.trim),
    "krum": lambda settings: Krum(settings.suspected),
    "norm_bound": lambda settings: NormBound(settings.norm_bound or 0.0),
}
"""Robust means, by their name in a recipe."""


def compose(rule: Rule, settings: FederationSettings) -> Rule:
    """``rule`` itself when ``settings`` asks for nothing more.

    Raises:
        ValueError: for a combination that makes no sense; ``experiment.rule_faults`` tells it of a recipe before.
    """
    if settings.robust != "none":
        if type(rule) is not FedAvg:
            raise ValueError(f"{settings.robust} takes the place of FedAvg's mean; {type(rule).__name__} has another")
        rule = ROBUST[settings.robust](settings)
    if settings.server_optimizer != "none":
        rule = ServerOptimizer(
            rule,
            settings.server_optimizer,
            settings.server_learning_rate,
            settings.server_momentum,
            settings.server_beta2,
            settings.server_tau,
        )
    return rule
