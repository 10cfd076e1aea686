"""How server and devices talk; the rounds know nothing else of where the devices are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from fedfit.core.messages import Order, Reply


class Link(Protocol):
    """Carries orders to devices and replies back, as a network does: in any order, twice, late, or never."""

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        """Replies as they arrive; orders are drawn one at a time, so that one packet is in memory.

        The stream ends when every device has replied, or ``deadline_s`` seconds after its order at the latest. Whoever reads
        it holds each reply against its order: an unknown, doubled or stale one is refused there.
        """
