"""Every key that a file may have, for guesses at misspelt ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from fedfit.experiment.components import all_keys


def key_places(root: Any) -> dict[str, list[str]]:
    """Returns every key of the schema ``root`` by its bare name; some are in several sections."""
    places: dict[str, list[str]] = {}
    for name, hint in get_type_hints(root).items():
        rows = rows_of(hint)
        if not is_dataclass(hint) and rows is None:
            places.setdefault(name, []).insert(0, name)
            continue
        for item in fields(rows or hint):
            for place in _places(f"{name}{'[]' if rows else ''}.", item):
                places.setdefault(place.rpartition(".")[2], []).append(place)
    return places


def _places(prefix: str, item: Field[Any]) -> Iterator[str]:
    """A key of a section, or the tables of its components and their keys."""
    if "options" not in item.metadata:
        yield prefix + item.name
        return
    for component, kind in all_keys(item.metadata["options"]).items():
        yield prefix + component
        yield from (f"{prefix}{component}.{own.name}" for own in fields(kind))


def rows_of(hint: Any) -> Any:
    """Returns the dataclass of a list of tables, or ``None``."""
    if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        return get_args(hint)[0]
    return None
