"""A codec whose packets are compressed by Zstandard (RFC 8878): ``zstd``, the last stage of a chain. Lossless."""

from __future__ import annotations

from dataclasses import dataclass, replace

import zstandard

from fedfit.codecs.contract import Codec
from fedfit.core.messages import Packet
from fedfit.core.update import Memory, Update
from fedfit.errors import UpdateRefused

LEVEL = 9
_FRAME_BYTES = 64  # what a frame adds to bytes that do not compress, beside 1/256 of them
_MOST_BYTES = 2**31 - 1  # of a packet that comes without a reference to hold it to: from the server


@dataclass(frozen=True)
class Compressed:
    """``codec`` makes the packets."""

    codec: Codec

    @property
    def refers(self) -> bool:
        """As the codec inside."""
        return bool(getattr(self.codec, "refers", False))

    @property
    def bound(self) -> Codec:
        """The codec inside: how much less its packets are depends on the numbers."""
        bound: Codec = getattr(self.codec, "bound", self.codec)
        return bound

    def bits_per_number(self, density: float = 1.0) -> float:
        """Those of the codec inside."""
        return self.codec.bits_per_number(density)

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        """See ``codecs.contract.Codec``."""
        packet, state = self.codec.encode(update, reference, seed, state)
        return replace(packet, payload=zstandard.ZstdCompressor(level=LEVEL).compress(packet.payload)), state

    def decode(self, packet: Packet, reference: Update | None = None) -> Update:
        """See ``codecs.contract.Codec``. The length that a frame says is held to what is due before it is read."""
        most = _MOST_BYTES if reference is None else self.codec.most_bytes(reference)
        try:
            size = zstandard.frame_content_size(packet.payload)
            if not 0 <= size <= most:
                raise UpdateRefused(f"the packet says that it holds {size} bytes; at most {most} are due")
            payload = zstandard.ZstdDecompressor().decompress(packet.payload, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise UpdateRefused(f"the packet is no frame of Zstandard: {error}") from error
        return self.codec.decode(replace(packet, payload=payload), reference)

    def most_bytes(self, form: Update) -> int:
        """See ``codecs.contract.Codec``."""
        most = self.codec.most_bytes(form)
        return most + most // 256 + _FRAME_BYTES
