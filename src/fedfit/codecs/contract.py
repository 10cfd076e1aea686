"""The contract of a codec: an update to bytes and back. Never pickle; a size is ``len(bytes)``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from fedfit.core.messages import Packet
from fedfit.core.update import Memory, Update


@runtime_checkable
class Codec(Protocol):
    """Turns an update into bytes and back, one for each direction.

    ``state`` is what the sender keeps from packet to packet, as error feedback does; ``None`` for a codec without. Devices keep
    theirs in their memory; the server, which sends to many, keeps none. Groups that an update marks ``exact`` come back to the
    bit, whatever the codec does to the others. A codec with a true attribute ``refers`` is given the decoded order as reference
    on both sides, to the bit. Where the numbers decide how long a packet is, an attribute ``bound`` is a codec whose packets
    are at least as long and depend on shapes alone: a plan counts with it.
    """

    def bits_per_number(self, density: float = 1.0) -> float:
        """Bits that a number of a group takes on the mean, beside names and framing; the planner counts with it.

        Args:
            density: the share of the group's numbers that is not zero.
        """

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        """The bytes that travel, and the sender's next state.

        Args:
            reference: an update that both sides have, such as the one that a reply answers.
            seed: of the codec's own draws.
        """

    def decode(self, packet: Packet, reference: Update | None = None) -> Update:
        """The update that the other side sees.

        Raises:
            UpdateRefused: for bytes that are not an update, or that do not fit ``reference``.
        """

    def most_bytes(self, form: Update) -> int:
        """The longest packet that an update of the names and shapes of ``form`` can take; a longer one is not read."""
