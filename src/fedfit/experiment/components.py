"""The components that a recipe names, with the dataclass of each one's own keys."""

from __future__ import annotations

from typing import Any


def keys_of(table: str, name: str) -> type[Any] | None:
    """The dataclass of the keys of the component ``name``; ``None`` for one without keys.

    Args:
        table: ``rules``.

    Raises:
        LookupError: for a component that does not exist.
    """
    from fedfit.aggregation.table import rule_entry

    assert table == "rules"
    return rule_entry(name).keys


def all_keys(table: str) -> dict[str, type[Any]]:
    """The dataclass of the keys of every component of the package that has keys, by the component's name.

    Args:
        table: ``rules``.
    """
    from fedfit.aggregation.table import RULES

    assert table == "rules"
    return {name: entry.keys for name, entry in RULES.items() if entry.keys is not None}
