"""The contract of a codec: ``Update ↔ Packet``. Never pickle; a size is ``len(bytes)``."""

from __future__ import annotations

from typing import Protocol

from fedfit.records import PARTS, Packet, Update


class Codec(Protocol):
    """Turns an update into bytes and back."""

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        """The bytes that travel: those of ``parts`` alone, of ``a``, ``b`` and ``head``."""

    def decode(self, packet: Packet, base: Update | None = None, wanted: frozenset[str] | None = None) -> Update:
        """The update that the other side sees; the parts that did not travel are those of ``base``.

        Raises:
            UpdateRefused: for bytes that are not an update, or hold other parts than those ``wanted``.
        """
