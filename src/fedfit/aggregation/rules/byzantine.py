"""What the robust means ask of a recipe: the rules that hold against a few byzantine updates."""

from __future__ import annotations

from collections.abc import Iterator

from fedfit.errors import Fault
from fedfit.settings import Recipe


def mean_faults(recipe: Recipe, *, weighs: bool) -> Iterator[Fault]:
    """Faults of weights that nothing reads.

    Args:
        weighs: whether the rule weighs updates at all.
    """
    federation = recipe.federation
    if not weighs and federation.weighting == "samples":
        yield Fault("federation.weighting", "samples", f"{federation.rule} weighs nothing; remove it")
