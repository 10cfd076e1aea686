"""Faults of ``[tracking]``: trackers that are unknown, or whose packages are not installed."""

from __future__ import annotations

from collections.abc import Iterator

from fedfit.errors import Fault, choose
from fedfit.settings import Recipe
from fedfit.tracking.sinks.table import SINKS


def unknown_sinks(recipe: Recipe) -> Iterator[Fault]:
    """A fault for each name that is no tracker's."""
    for name in recipe.tracking.sinks:
        if name not in SINKS:
            yield Fault("tracking.sinks", name, choose(name, tuple(SINKS)))


def missing_packages(recipe: Recipe) -> Iterator[Fault]:
    """A fault for each tracker that cannot be imported here."""
    for name in recipe.tracking.sinks:
        kind = SINKS.get(name)
        if kind is not None and not kind.is_installed():
            remedy = f"its package is not installed; run pip install 'fedfit[{kind.extra}]', or take it out of the list"
            yield Fault("tracking.sinks", name, remedy)
