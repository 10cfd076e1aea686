"""The table of personalisation methods, by their name in ``personalization.method``.

A method of one's own needs no row here: ``package.module:ENTRY`` names a ``MethodEntry``, and so does an entry point of the
group ``fedfit.methods``.
"""

from __future__ import annotations

from typing import Any

from fedfit.core.plugins import find
from fedfit.personalization import ditto, fdlora, fedalt, feddpa, fine_tune, own_head, own_layers
from fedfit.personalization.contract import Method, MethodEntry
from fedfit.settings import Recipe

METHODS: dict[str, MethodEntry] = {
    "fdlora": fdlora.ENTRY,
    "ditto": ditto.ENTRY,
    "fedalt": fedalt.ENTRY,
    "feddpa": feddpa.ENTRY,
    "fedper": own_head.FEDPER_ENTRY,
    "fedrep": own_head.FEDREP_ENTRY,
    "pftt": own_layers.PFTT_ENTRY,
    "pfedlora": own_layers.PFEDLORA_ENTRY,
    "fine_tune": fine_tune.ENTRY,
}

NONE = "none"


def method_entry(name: str) -> MethodEntry:
    """The entry of the method ``name``: of the table, of an entry point, or by dotted name.

    Raises:
        LookupError: with the reason, for a name that leads to no entry.
    """
    return find(name, METHODS, "fedfit.methods", MethodEntry)


def method_keys(recipe: Recipe) -> Any:
    """The keys of the recipe's method: those of ``[personalization.<method>]``, or the defaults; ``None`` without a method."""
    name = recipe.personalization.method
    if name == NONE:
        return None
    given = recipe.personalization.options.get(name)
    return given if given is not None else method_entry(name).default_keys()


def make_method(recipe: Recipe) -> Method | None:
    """The method that ``recipe`` names, or none."""
    name = recipe.personalization.method
    return None if name == NONE else method_entry(name).make(method_keys(recipe), recipe)
