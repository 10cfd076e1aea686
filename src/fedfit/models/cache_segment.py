"""One segment of the trunk cache on disk: a data file, and the index that makes parts of it count.

Both begin with a header that names the cache they belong to. Payloads are appended to the data file; after each, a record
of fixed size, with a checksum of its own, is appended to the index. So whenever the process is killed, what the index says is
there whole; a torn record at its end is not a record.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

_MAGIC = b"fedfit-trunk-01\n"
_RECORD = struct.Struct("<16sQIQ")  # sample hash, offset in the data file, tokens, checksum of the payload
_CHECKSUM = struct.Struct("<I")
RECORD_BYTES = _RECORD.size + _CHECKSUM.size


class SegmentDamagedError(Exception):
    """A segment that is of another cache, cut short, or whose index does not hold; the text says which."""


def header(key: str) -> bytes:
    """What both files of a segment of the cache ``key`` (32 hex digits) begin with."""
    return _MAGIC + bytes.fromhex(key)


@dataclass
class Entry:
    """Where one sample's states are. ``verified`` once the payload has been held to its checksum."""

    segment: Segment
    offset: int
    size_bytes: int
    tokens: int
    checksum: int
    verified: bool = False


class Segment:
    """A data file, mapped; mapped anew when it has grown."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._map: mmap.mmap | None = None

    def read(self, offset: int, size_bytes: int) -> memoryview:
        """The bytes there; fewer when the file is shorter.

        Raises:
            OSError: when the file is gone.
            ValueError: when it is empty.
        """
        if self._map is None or len(self._map) < offset + size_bytes:
            with self.data.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[offset : offset + size_bytes]

    def entries(self, expected_header: bytes, bytes_a_token: int) -> dict[bytes, Entry]:
        """The entries of the index; none while another process is just opening it.

        Raises:
            SegmentDamagedError: when header, index or length do not hold.
            FileNotFoundError: when another process has just deleted it.
        """
        index = self.data.with_suffix(".index")
        if not index.exists():
            return {}
        raw = index.read_bytes()
        size_bytes = self.data.stat().st_size
        with self.data.open("rb") as file:
            found_header = file.read(len(expected_header))
        if found_header != expected_header or not raw.startswith(expected_header):
            raise SegmentDamagedError("is not of this cache")
        entries = {}
        body = raw[len(expected_header) :]
        for start in range(0, len(body) - RECORD_BYTES + 1, RECORD_BYTES):
            record = body[start : start + _RECORD.size]
            (record_checksum,) = _CHECKSUM.unpack_from(body, start + _RECORD.size)
            sample, offset, tokens, checksum = _RECORD.unpack(record)
            if zlib.crc32(record) != record_checksum or offset + tokens * bytes_a_token > size_bytes:
                raise SegmentDamagedError("is damaged or cut short")
            entries[sample] = Entry(self, offset, tokens * bytes_a_token, tokens, checksum)
        return entries

    def delete(self) -> None:
        """Removes both files; a process that has the data mapped can still read them."""
        self.data.unlink(missing_ok=True)
        self.data.with_suffix(".index").unlink(missing_ok=True)


class SegmentWriter:
    """Appends to this process's own segment: first the payload, then the record that makes it count."""

    def __init__(self, data: Path, own_header: bytes) -> None:
        self.segment = Segment(data)
        self._data: BinaryIO = data.open("xb", buffering=0)
        opening = data.with_suffix(".opening")
        self._index: BinaryIO = opening.open("xb", buffering=0)
        write_all(self._data, own_header)
        write_all(self._index, own_header)
        opening.rename(data.with_suffix(".index"))  # whole at once: another run may be reading the folder
        self._offset = len(own_header)

    def append(self, sample: bytes, payload: bytes, tokens: int) -> Entry:
        """Writes one sample's states, ``payload``."""
        write_all(self._data, payload)
        checksum = xxhash.xxh3_64_intdigest(payload)
        record = _RECORD.pack(sample, self._offset, tokens, checksum)
        write_all(self._index, record + _CHECKSUM.pack(zlib.crc32(record)))
        entry = Entry(self.segment, self._offset, len(payload), tokens, checksum, verified=True)
        self._offset += len(payload)
        return entry

    def close(self) -> None:
        """Closes both files."""
        self._data.close()
        self._index.close()


def write_all(file: BinaryIO, payload: bytes) -> None:
    """Unbuffered ``write`` may write less than asked, and a full disk shows as an error only at the next one."""
    view = memoryview(payload)
    while view:
        written = file.write(view)
        view = view[written:]
