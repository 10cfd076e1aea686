"""Writes the recipe reference from the schema in ``fedfit.settings``: the docs cannot fall behind the code."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from fedfit.settings import Recipe

_HEAD = """# Recipe reference

Made from the schema in `fedfit/settings.py`; do not edit. A recipe is a TOML file; each section below is a table of it. Every
key may be left out, and every key can be set on the command line as `section.key=value`. A key that is unset by default is
marked –. `fedfit recipes show demo` prints a recipe to start from.
"""


def write_reference(path: Path) -> None:
    """Writes the page, and only when it has changed, so that a second build does nothing."""
    text = reference()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def reference() -> str:
    """The page in Markdown."""
    parts = [_HEAD, "## Top level\n", _table(Recipe)]
    for name, kind in get_type_hints(Recipe).items():
        if is_dataclass(kind):
            parts += [f"## [{name}]\n", f"{(kind.__doc__ or '').strip()}\n", _table(kind)]
    return "\n".join(parts)


def _table(kind: Any) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for item in fields(kind):
        if "doc" in item.metadata:
            rows.append(f"| `{item.name}` | {_default(item.default)} | {item.metadata['doc']}{_limits(item.metadata)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _limits(metadata: Any) -> str:
    words = []
    if "choices" in metadata:
        words.append("one of " + ", ".join(f"`{choice}`" for choice in metadata["choices"]))
    if "minimum" in metadata:
        words.append(f"at least {metadata['minimum']}")
    if "above" in metadata:
        words.append(f"above {metadata['above']}")
    if "maximum" in metadata:
        words.append(f"at most {metadata['maximum']}")
    return f" ({'; '.join(words)})" if words else ""
