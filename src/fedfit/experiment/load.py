"""From TOML and the command line to a ``Recipe``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence

import tomli_w

from fedfit.errors import Fault, RecipeError
from fedfit.experiment.shipped import read_shipped_or_file, shipped
from fedfit.experiment.tables import build_settings, override, read_toml, to_plain
from fedfit.experiment.validate import key_faults
from fedfit.settings import Recipe


def shipped_recipes() -> dict[str, str]:
    """The text of every recipe that comes with the package, by name."""
    return shipped("fedfit.recipes")


def recipe_heads() -> dict[str, str]:
    """The first comment line of every shipped recipe, by name."""
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in shipped_recipes().items()}


def read_recipe(name_or_path: str) -> str:
    """The text of a shipped recipe by name, or of a file.

    Raises:
        RecipeError: when no such recipe or file exists; a data set's name gets the recipes that read it.
    """
    recipes = shipped_recipes()
    by_data_set: dict[str, list[str]] = {}
    for name, text in recipes.items():
        by_data_set.setdefault(tomllib.loads(text)["data"]["source"], []).append(name)
    hint = "; `fedfit recipes` describes them"
    return read_shipped_or_file(name_or_path, recipes, "recipe", by_data_set, hint)


def parse_recipe(text: str, overrides: Sequence[str] = (), origin: str = "the text") -> Recipe:
    """Returns a recipe of known keys and right types; ``experiment.validate`` holds it to everything else.

    Args:
        overrides: ``section.key=value``, the value in TOML; a bare word is a string, and an empty value takes the key out.
        origin: the file or name of the text, for the message when it is not TOML.

    Raises:
        RecipeError: with every fault found.
    """
    document = read_toml(text, origin)
    faults: list[Fault] = []
    for words in overrides:
        override(document, words, faults)
    recipe = build_settings(Recipe, document, faults)
    if faults:  # a key at fault holds its default now, so the others add no second fault of it
        raise RecipeError([*faults, *key_faults(recipe)])
    return recipe


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe: every key with its value; those that are unset are left out."""
    return tomli_w.dumps(to_plain(recipe))
