"""A codec whose packets are compressed by Zstandard (RFC 8878): ``zstd``, the last stage of a chain. Lossless."""

from __future__ import annotations

from dataclasses import dataclass, replace

import zstandard

from fedfit.codecs.contract import Codec
from fedfit.core.messages import Packet
from fedfit.core.update import Memory, Update
from fedfit.errors import UpdateRefused

LEVEL = 9
_FRAME_BYTES, _BLOCK_BYTES, _BLOCK = 18, 3, 2**17  # headers of a frame and of each of its blocks
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
        """Packets that do not compress: how much less they are depends on the numbers."""
        return Uncompressed(getattr(self.codec, "bound", self.codec))

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
        return _stored(self.codec.most_bytes(form))


@dataclass(frozen=True)
class Uncompressed(Compressed):
    """As long as packets can be that do not compress. For plans alone: what it makes is not read."""

    @property
    def bound(self) -> Codec:
        """Itself."""
        return self

    def bits_per_number(self, density: float = 1.0) -> float:
        """With a block's share."""
        return self.codec.bits_per_number(density) * (1 + _BLOCK_BYTES / _BLOCK)

    def encode(
        self, update: Update, reference: Update | None = None, seed: int = 0, state: Memory | None = None
    ) -> tuple[Packet, Memory | None]:
        """The packet of the codec inside, filled up."""
        packet, state = self.codec.encode(update, reference, seed, state)
        return replace(packet, payload=packet.payload.ljust(_stored(packet.size_bytes))), state


def _stored(size: int) -> int:
    """Bytes of a frame of ``size`` bytes that do not compress: RFC 8878, 3.1.1: a header, and one for each block of 128 KiB."""
    return size + _FRAME_BYTES + _BLOCK_BYTES * -(-size // _BLOCK)
