"""The table of adapter kinds, by the names of ``adapter.kind``.

A kind of one's own needs no row here: ``package.module:KIND`` names its ``AdapterKind``, and so does an entry point of the
group ``fedfit.adapters``.
"""

from __future__ import annotations

from fedfit.adapters import lora
from fedfit.core.plugins import find
from fedfit.models.adapter import AdapterKind

ADAPTERS: dict[str, AdapterKind] = {"lora": lora.KIND}


def adapter_kind(name: str) -> AdapterKind:
    """The adapter kind ``name``.

    Raises:
        LookupError: with the reason, for a name that leads to none.
    """
    return find(name, ADAPTERS, "fedfit.adapters", AdapterKind)
