"""The recipe reference in the repository is the one that the schema gives, and it names every key."""

import importlib.util
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from fedfit.fleet_settings import FleetFile
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
    kinds = [Recipe, FleetFile]
    while kinds:
        for name, hint in get_type_hints(kinds.pop()).items():
            row = get_args(hint)[0] if get_origin(hint) is tuple else hint
            if is_dataclass(row):
                kinds.append(row)  # type: ignore[arg-type]
            else:
                assert f"| `{name}` |" in text


def test_no_row_has_more_cells_than_its_heading() -> None:
    """A bar in a meaning would break the table."""
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert all(line.count("|") == 4 for line in rows)
