"""The page's section on the recipe: the keys that differ from their defaults, and the others folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

import tomli_w

from fedfit.schema import Draw
from fedfit.settings import Recipe


def recipe_section(recipe: Mapping[str, Any]) -> str:
    """``recipe`` as HTML: what was chosen in sight, what is at its default below a fold."""
    changed, rest = divide(recipe, _plain(Recipe()))
    count = _count(rest)
    if not count:
        return _toml(changed)
    words = f"{count} keys at their defaults" if count > 1 else "1 key at its default"
    return f"{_toml(changed)}\n<details><summary>{words}</summary>{_toml(rest)}</details>"


def divide(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of ``given`` that differ from ``defaults``, or that those lack, and the others; empty sections are left out."""
    changed: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in given.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            both = divide(value, default)
            changed |= {name: both[0]} if both[0] else {}
            rest |= {name: both[1]} if both[1] else {}
        else:
            (rest if name in defaults and value == default else changed)[name] = value
    return changed, rest


def _plain(value: Any) -> Any:
    """The settings ``value`` as TOML holds them; unset keys are left out."""
    if isinstance(value, Draw):
        return value.to_toml()
    if is_dataclass(value):
        items = {item.name: getattr(value, item.name) for item in fields(value) if "options" not in item.metadata}
        return {name: _plain(item) for name, item in items.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _count(table: Mapping[str, Any]) -> int:
    return sum(_count(value) if isinstance(value, Mapping) else 1 for value in table.values())


def _toml(table: Mapping[str, Any]) -> str:
    return f'<div class="scroll"><pre>{escape(tomli_w.dumps(table))}</pre></div>'
