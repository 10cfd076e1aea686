"""The recipe reference in the repository is the one that the schema gives, and it names every key."""

import importlib.util
from dataclasses import fields, is_dataclass
from pathlib import Path

from fedfit.settings import Recipe

DOCS = Path(__file__).parents[2] / "docs"


def reference() -> str:
    spec = importlib.util.spec_from_file_location("recipe_reference", DOCS / "recipe_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.reference()
    return text


def test_the_page_is_current() -> None:
    assert (DOCS / "recipe.md").read_text() == reference(), "run `make docs` and commit docs/recipe.md"


def test_every_key_has_a_row() -> None:
    text = reference()
    recipe = Recipe()
    for item in fields(Recipe):
        section = getattr(recipe, item.name)
        names = [key.name for key in fields(section)] if is_dataclass(section) else [item.name]
        for name in names:
            assert f"| `{name}` |" in text
