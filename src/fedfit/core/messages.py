"""What goes between server and devices, and its byte form. Starts without torch.

On the wire a message is a JSON header, its length before it in four bytes, and the packet as it is.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from typing import Any

from fedfit.errors import UpdateRefused

_LENGTH = struct.Struct("<I")
MOST_HEADER_BYTES = 1 << 16
_MOST_REFUSAL_CHARACTERS = 4000  # up to 12 bytes each in JSON


@dataclass(frozen=True)
class Packet:
    """An encoded update, as it goes over the air."""

    payload: bytes

    @property
    def size_bytes(self) -> int:
        """Length of the payload."""
        return len(self.payload)


@dataclass(frozen=True)
class Order:
    """Server to device: train the groups ``trains`` of the adapter in this round, from ``packet``. Tensors that the device
    already holds are omitted from the packet."""

    round: int
    device: int
    packet: Packet
    trains: frozenset[str]

    def to_bytes(self) -> bytes:
        """The message on the wire."""
        return _join({"round": self.round, "device": self.device, "trains": sorted(self.trains)}, self.packet)

    @classmethod
    def from_bytes(cls, message: bytes) -> Order:
        """The inverse of ``to_bytes``.

        Raises:
            UpdateRefused: for bytes that are no order.
        """
        head, payload = _split(message, {"round", "device", "trains"})
        if payload is None:
            raise UpdateRefused("the message is not an order: it has no packet")
        trains = head["trains"]
        if not isinstance(trains, list) or not all(isinstance(name, str) for name in trains):
            raise UpdateRefused(f"the message is not an order: trains = {trains!r}")
        return cls(_whole(head, "round"), _whole(head, "device"), Packet(payload), frozenset(trains))


@dataclass(frozen=True)
class Reply:
    """Device to server: the trained update, or the reason that it is missing. ``seconds`` is the device's own wall time."""

    round: int
    device: int
    packet: Packet | None
    refusal: str | None
    seconds: float

    def to_bytes(self) -> bytes:
        """The message on the wire; a refusal of many names is cut, so that the header stays within its bound."""
        refusal = None if self.refusal is None else self.refusal[:_MOST_REFUSAL_CHARACTERS]
        head = {"round": self.round, "device": self.device, "refusal": refusal, "seconds": self.seconds}
        return _join(head, self.packet)

    @classmethod
    def from_bytes(cls, message: bytes) -> Reply:
        """The inverse of ``to_bytes``.

        Raises:
            UpdateRefused: for bytes that are no reply.
        """
        head, payload = _split(message, {"round", "device", "refusal", "seconds"})
        refusal, seconds = head["refusal"], head["seconds"]
        if not (refusal is None or isinstance(refusal, str)):
            raise UpdateRefused(f"the message is not a reply: refusal = {refusal!r}")
        if type(seconds) not in (int, float) or not 0 <= seconds <= sys.float_info.max:
            raise UpdateRefused(f"the message is not a reply: seconds = {seconds!r}")
        packet = None if payload is None else Packet(payload)
        return cls(_whole(head, "round"), _whole(head, "device"), packet, refusal, float(seconds))


def _join(head: dict[str, Any], packet: Packet | None) -> bytes:
    text = json.dumps({**head, "packet": packet is not None}).encode()
    return _LENGTH.pack(len(text)) + text + (packet.payload if packet is not None else b"")


def _split(message: bytes, wanted: set[str]) -> tuple[dict[str, Any], bytes | None]:
    """Header and packet; the header's length is bounded before anything is read."""
    if len(message) < _LENGTH.size:
        raise UpdateRefused(f"the message is cut short: {len(message)} bytes")
    (length,) = _LENGTH.unpack_from(message)
    if length > MOST_HEADER_BYTES or _LENGTH.size + length > len(message):
        raise UpdateRefused(f"the message claims a header of {length} bytes and has {len(message) - _LENGTH.size}")
    try:
        head = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    except (ValueError, RecursionError) as error:
        raise UpdateRefused(f"the message has a header that is not JSON: {error}") from error
    if not isinstance(head, dict) or set(head) != wanted | {"packet"} or type(head["packet"]) is not bool:
        raise UpdateRefused(f"the message has another header than {sorted(wanted)}")
    rest = message[_LENGTH.size + length :]
    if rest and not head["packet"]:
        raise UpdateRefused(f"the message has {len(rest)} bytes after its end")
    return head, rest if head["packet"] else None


def _whole(head: dict[str, Any], name: str) -> int:
    value = head[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise UpdateRefused(f"the message says {name} = {value!r}, not a whole number")
    return value
