"""Components of one's own: by a dotted name in a recipe, or by an entry point of an installed package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar, cast

T = TypeVar("T")


def find(name: str, table: Mapping[str, T], group: str, kind: type[Any]) -> T:
    """The component ``name``: a row of ``table``, an entry point of ``group``, or the object at ``package.module:NAME``.

    Raises:
        LookupError: with the reason, when nothing has this name, or it is no ``kind``.
    """
    found: object = table.get(name)
    if found is not None:
        return cast(T, found)
    found = _dotted(name) if ":" in name else _installed(name, group)
    if not isinstance(found, kind):
        raise LookupError(f"{name} is a {type(found).__name__}, not a {kind.__name__}")
    return cast(T, found)


def names(table: Mapping[str, Any], group: str) -> tuple[str, ...]:
    """Every name that ``find`` knows without a dotted name."""
    return (*table, *(point.name for point in entry_points(group=group)))


def _dotted(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(f"{name} cannot be imported: {error}") from error


def _installed(name: str, group: str) -> object:
    for point in entry_points(group=group):
        if point.name == name:
            try:
                return point.load()
            except (ImportError, AttributeError) as error:
                raise LookupError(f"{name} of the package {point.dist and point.dist.name} fails to load: {error}") from error
    raise LookupError(f"no {group} of this name")
