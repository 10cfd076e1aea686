"""The description of a named data set, and how such a set without an official split is cut."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfit.data.hub import HubSet
from fedfit.data.table import Table, Tables


@dataclass(frozen=True)
class NamedSet:
    """One data set. ``files`` lie in its folder; ``read`` makes tables of that folder.

    ``folder`` is the folder's name below ``$FEDFIT_DATA``, by default the set's own.
    """

    files: tuple[str, ...]
    read: Callable[[Path], Tables]
    hub: HubSet | None = None
    folder: str = ""

    def paths(self, name: str) -> list[str]:
        """The files below ``$FEDFIT_DATA`` of the set called ``name``."""
        return [f"{self.folder or name}/{file}" for file in self.files]


def held_out(table: Table, column: str, share: float) -> tuple[Table, Table]:
    """The rows that stay and those of the test part, by the hash of a column: the same whatever else the table holds."""
    drawn = np.array([hash_share(text) < share for text in table.column("data.source", column)])
    return table.select(np.flatnonzero(~drawn)), table.select(np.flatnonzero(drawn))


def hash_share(text: str) -> float:
    """A number in [0, 1) that depends on ``text`` alone."""
    return float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")) / 2**32
