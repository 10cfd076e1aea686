"""The fault of a name that leads to no component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedfit.core.plugins import names
from fedfit.errors import Fault, choose


def name_fault(key: str, name: str, table: Mapping[str, Any], group: str, look_up: Callable[[str], object]) -> Iterator[Fault]:
    """At most one: near names for a slip, the reason for a component of the user's own."""
    try:
        look_up(name)
    except LookupError as error:
        known = names(table, group)
        yield Fault(key, name, str(error) if ":" in name or name in known else choose(name, known))
