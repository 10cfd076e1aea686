"""A metric's full name: the set or model that it was measured on, and its direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedfit.core.task import Metric

PREFIXES = ("test_", "validation_", "personal_", "shared_", "fused_")
"""Beginnings of a metric's full name: the set, or the model, that it was measured on."""

MODELS = ("shared", "personal", "fused")
"""The models of a device, as beginnings of metrics' names; of those that a run has, devices use the last."""

_LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "kl", "spread")


def metrics_of(values: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics by full name, with the directions that their names have; a value that was not measured is left out.

    Raises:
        TypeError: for a value that is not a number.
    """
    wrong = {name: value for name, value in values.items() if value is not None and type(value) not in (int, float)}
    if wrong:
        raise TypeError(f"not numbers: {wrong}")
    return {name: Metric(value, higher_is_better(name)) for name, value in values.items() if value is not None}


def higher_is_better(name: str) -> bool:
    """The direction that a metric's name has: a loss, a perplexity or a spread is better when lower."""
    return not any(word in name for word in _LOWER_IS_BETTER)
