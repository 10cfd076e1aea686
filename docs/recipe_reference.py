"""Writes the recipe reference from the schema in ``fedfit.settings``: the docs cannot fall behind the code."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from fedfit.experiment.components import all_keys
from fedfit.fleet_settings import FleetFile
from fedfit.schema import Draw
from fedfit.settings import Recipe

_HEAD = """# Recipe reference

Made from the schema in `fedfit/settings.py` and the keys of each rule in `fedfit/aggregation/rules`; do not edit. A recipe is a
TOML file; each section below is a table of it. Every key may be left out, and every key can be set on the command line as
`section.key=value`. A key that is unset by default is marked –. `fedfit recipes show demo` prints a recipe to start from.
"""


_FLEET_HEAD = """## Fleet files

`fedfit plan` takes a fleet in a file of its own: `[fleet]`, `[channel]`, `[[device]]` and `[[server]]` as above, and these two.
`fedfit plan three-devices` plans a shipped one.
"""


def write_reference(path: Path) -> None:
    """Writes the page, and only when it has changed, so that a second build does nothing."""
    text = reference()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def reference() -> str:
    """The page in Markdown."""
    parts = [_HEAD, "## Top level\n", _table(Recipe)]
    for title, kind in _sections(Recipe):
        parts += [f"## {title}\n", f"{_prose(kind)}\n", _table(kind), *_own_tables(title, kind)]
    parts.append(_FLEET_HEAD)
    for title, kind in _sections(FleetFile):
        if kind not in dict(_sections(Recipe)).values():
            parts += [f"### {title}\n", f"{_prose(kind)}\n", _table(kind)]
    return "\n".join(parts)


def _own_tables(section: str, kind: Any) -> list[str]:
    """The sub-tables of the components that ``section`` chooses from: the keys of each rule."""
    found = []
    for item in (item for item in fields(kind) if "options" in item.metadata):
        for name, own in all_keys(item.metadata["options"]).items():
            title = f"[{section.strip('[]')}.{name}]"
            found += [f"### {title}\n", f"{_prose(own)} Read by `{name}` alone.\n", _table(own)]
    return found


def _sections(kind: Any) -> list[tuple[str, Any]]:
    """The tables of a file, and its lists of tables, by how they are written."""
    found = []
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            found.append((f"[{name}]", hint))
        elif get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
            found.append((f"[[{name}]]", get_args(hint)[0]))
    return found


def _prose(kind: Any) -> str:
    return " ".join((kind.__doc__ or "").split())


def _table(kind: Any) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for item in fields(kind):
        if "doc" in item.metadata:
            rows.append(f"| `{item.name}` | {_default(item.default)} | {item.metadata['doc']}{_limits(item.metadata)} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Draw):
        return f"`{value!r}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, float) and value >= 1e5:
        return f"`{value:g}`"
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
