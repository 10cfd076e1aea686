"""The components that a recipe names, with the dataclass of each one's own keys."""

from __future__ import annotations

from typing import Any


def keys_of(table: str, name: str) -> type[Any] | None:
    """The dataclass of the keys of the component ``name``; ``None`` for one without keys.

    Args:
        table: ``rules`` or ``methods``.

    Raises:
        LookupError: for a component that does not exist.
    """
    from fedfit.aggregation.table import rule_entry
    from fedfit.personalization.table import method_entry

    return rule_entry(name).keys if table == "rules" else method_entry(name).keys


def all_keys(table: str) -> dict[str, type[Any]]:
    """The dataclass of the keys of every component of the package that has keys, by the component's name.

    Args:
        table: ``rules`` or ``methods``.
    """
    from fedfit.aggregation.table import RULES
    from fedfit.personalization.table import METHODS

    entries: Any = {"rules": RULES, "methods": METHODS}[table]
    return {name: entry.keys for name, entry in entries.items() if entry.keys is not None}
