"""The contract of a codec: ``Update ↔ Packet``. Never pickle; a size is ``len(bytes)``."""

from __future__ import annotations

from typing import Protocol

from fedfit.records import Packet, Update


class Codec(Protocol):
    """Turns an update into bytes and back."""

    def encode(self, update: Update) -> Packet:
        """The bytes that travel."""

    def decode(self, packet: Packet) -> Update:
        """The update that the other side sees.

        Raises:
            UpdateRefused: for bytes that are not an update.
        """
