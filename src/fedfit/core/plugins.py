"""Components of one's own: by a dotted name in a recipe, or by an entry point of an installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")

_MODULES: dict[str, str] = {}
"""Name of each installed component that was found → its module."""


def find(name: str, table: Mapping[str, T], group: str, kind: type[Any]) -> T:
    """The component ``name``: a row of ``table``, an entry point of ``group``, or the object at ``package.module:NAME``.

    Raises:
        LookupError: with the reason, when nothing has this name, or it is no ``kind``.
    """
    found: object = table.get(name)
    if found is not None:
        return cast(T, found)
    found = _dotted(name, kind) if ":" in name else _installed(name, group)
    if not isinstance(found, kind):
        raise LookupError(f"{name} is a {type(found).__name__}, not a {kind.__name__}")
    return cast(T, found)


def names(table: Mapping[str, Any], group: str) -> tuple[str, ...]:
    """Every name that ``find`` knows without a dotted name."""
    return (*table, *(point.name for point in entry_points(group=group)))


def module_of(name: str) -> str | None:
    """The module of a component of the user's own or of another package; ``None`` for one of fedfit's tables."""
    return name.partition(":")[0] if ":" in name else _MODULES.get(name)


def _dotted(name: str, kind: type[Any]) -> object:
    """The object at ``package.module:NAME``, of an installed package or a file in the working folder."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:  # the command `fedfit`, unlike `python -m`, does not look there
        sys.path.append(str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        remedy = "install its package, or run where its file lies"
        raise LookupError(f"{name} cannot be imported: {error}; {remedy}") from error
    except Exception as error:  # code of the user's own, which may raise anything
        raise LookupError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        there = [word for word, value in vars(found).items() if isinstance(value, kind) and not word.startswith("_")]
        listed = ", ".join(there) or f"no {kind.__name__}"
        raise LookupError(f"{name} cannot be imported: {error}; it has {listed}") from error


def _installed(name: str, group: str) -> object:
    for point in entry_points(group=group):
        if point.name == name:
            _MODULES[name] = point.module
            try:
                return point.load()
            except Exception as error:  # code of another package, which may raise anything
                package = point.dist.name if point.dist else point.value
                raise LookupError(f"{name} of the package {package} fails to load: {type(error).__name__}: {error}") from error
    raise LookupError(f"no {group} of this name")
