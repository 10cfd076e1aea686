"""The recipe reference in the repository is the one that the schema gives, and it names every key."""

import importlib.util
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from fedfit.aggregation.table import RULES
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
            elif name != "options":  # which stands for the tables of the rules
                assert f"| `{name}` |" in text


def test_every_rule_with_keys_has_a_table_of_them_below_its_section() -> None:
    text = reference()
    _, _, federation = text.partition("\n## [federation]\n")
    sections = re.split(r"\n### \[federation\.", federation.partition("\n## ")[0])[1:]
    found = {
        title: re.findall(r"^\| `(\w+)` \|", rest, re.MULTILINE) for title, _, rest in (s.partition("]") for s in sections)
    }
    assert found == {
        name: [item.name for item in fields(entry.keys)] for name, entry in RULES.items() if entry.keys is not None
    }
    assert found["krum"] == ["byzantine"]
    assert "| `byzantine` | `1` | f: how many updates of a round may be byzantine, of at least 2f + 3 (at least 0) |" in text


def test_no_row_has_more_cells_than_its_heading() -> None:
    """A bar in a meaning would break the table."""
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert all(line.count("|") == 4 for line in rows)
