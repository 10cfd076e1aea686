"""The ranks that a recipe gives its devices itself."""

from __future__ import annotations

from fedfit.randomness import derive_seed
from fedfit.schema import Draw
from fedfit.settings import Recipe
from fedfit.wireless.fleet import draw_numbers


def device_ranks(recipe: Recipe) -> list[int]:
    """The rank of every device where no plan gives one: ``federation.ranks``, listed or drawn; the share
    ``federation.rank_shares`` of the global rank, to the nearest whole number and at least 1; else the global rank.
    """
    federation, rank = recipe.federation, recipe.adapter.rank
    given, share = (federation.ranks, 1) if federation.rank_shares is None else (federation.rank_shares, rank)
    if given is None:
        return [rank] * federation.devices
    drawn = draw_numbers(given, federation.devices, derive_seed(recipe.seed, "ranks")) if isinstance(given, Draw) else given
    return [min(max(1, round(float(value) * share)), rank) for value in drawn]


def are_given(recipe: Recipe) -> bool:
    """Whether devices have ranks of their own from the recipe."""
    return recipe.federation.ranks is not None or recipe.federation.rank_shares is not None
