"""How server and devices talk; the rounds know nothing else of where the devices are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from fedfit.records import Order, Reply


class Link(Protocol):
    """Carries orders to devices and replies back, in any order, each once."""

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        """Replies as they come; orders are drawn one at a time, so that one packet is in memory."""
