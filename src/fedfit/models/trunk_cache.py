"""The trunk's outputs on disk, shared by devices, rounds and runs.

One folder a key (model weights below the cut, cut, stored type, how it was computed); in it segments, each written by one
process alone: a data file to which hidden states are appended, and an index to which a record is appended afterwards. A
record counts when its own checksum holds, so a process killed at any moment leaves nothing half-written behind; what a
record points to is checked when it is first read. A segment with anything wrong is deleted whole, and rebuilt by use.
Readers map the data files; deleting a mapped file is harmless, so runs share a cache without locks.

A sample is known by the hash of its token ids, which covers text, tokenizer and length limit at once.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import stat
import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from fedfit.units import format_bytes

log = logging.getLogger(__name__)

_MAGIC = b"fedfit-trunk-01\n"
_RECORD = struct.Struct("<16sQIQ")  # sample hash, offset in the data file, tokens, checksum of the payload
_CHECKSUM = struct.Struct("<I")
_RECORD_BYTES = _RECORD.size + _CHECKSUM.size


@dataclass
class _Entry:
    segment: _Segment
    offset: int
    tokens: int
    checksum: int
    verified: bool = False


class _Segment:
    """A data file, mapped; mapped anew when it has grown."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._map: mmap.mmap | None = None

    def read(self, offset: int, size_bytes: int) -> memoryview:
        if self._map is None or len(self._map) < offset + size_bytes:
            with self.data.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[offset : offset + size_bytes]

    def delete(self) -> None:
        self.data.unlink(missing_ok=True)
        self.data.with_suffix(".index").unlink(missing_ok=True)


class TrunkCache:
    """Hidden states ``(tokens, hidden)`` by sample hash.

    Args:
        root: folder of all keys; its total size is kept under ``max_bytes``.
        key: 32 hex digits; what else, beside the sample, the states depend on.
        hidden: hidden size.
        dtype: stored type, ``float32`` or ``float16``.
        max_bytes: bound on all keys together. When it is reached, the keys used longest ago are deleted; when there is
            no other key, nothing more is stored.
    """

    def __init__(self, root: Path, key: str, hidden: int, dtype: str, max_bytes: int) -> None:
        self._root, self._key, self._hidden, self._max_bytes = root, key, hidden, max_bytes
        self._dtype = np.dtype(dtype)
        self._folder = root / key
        self._header = _MAGIC + bytes.fromhex(key)
        self._entries: dict[bytes, _Entry] = {}
        self._writer: _Writer | None = None
        self._closed_for_writing = False
        self._size_bytes = 0
        self._bytes_since_count = 0  # what other processes add shows only when the folder is counted anew
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.utime(self._folder)
            self._load_segments()
            self._size_bytes = _tree_bytes(root)
        except OSError as error:
            self._stop_writing(f"cannot be opened ({error})")

    def __contains__(self, sample: bytes) -> bool:
        return self._verify(sample) is not None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def writable(self) -> bool:
        """Whether ``put`` still keeps anything: not after disk or bound was found full."""
        return not self._closed_for_writing

    def get(self, sample: bytes) -> np.ndarray | None:
        """The stored states ``(tokens, hidden)``, read-only and in the stored type, or ``None``."""
        entry = self._verify(sample)
        payload = self._read(entry) if entry is not None else None
        if entry is None or payload is None:
            return None
        return np.frombuffer(payload, dtype=self._dtype).reshape(entry.tokens, self._hidden)

    def put(self, sample: bytes, states: np.ndarray) -> None:
        """Appends ``states`` ``(tokens, hidden)``; kept out, with a warning, when disk or bound is full."""
        if self._closed_for_writing or sample in self._entries:
            return
        payload = np.ascontiguousarray(states, dtype=self._dtype).tobytes()
        needed = len(payload) + _RECORD_BYTES + (0 if self._writer is not None else 2 * len(self._header))
        try:
            if not self._make_room(needed):
                self._stop_writing(f"is full ({format_bytes(self._max_bytes)}; raise trunk_cache.max_gigabytes)")
                return
            writer = self._writer or self._open_writer()
            entry = writer.append(sample, payload, len(states))
        except OSError as error:
            self._stop_writing(f"cannot be written ({error})")
            return
        self._entries[sample] = entry
        self._size_bytes += needed
        self._bytes_since_count += needed

    def close(self) -> None:
        """Closes this process's segment; the cache can still be read."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._closed_for_writing = True

    def _payload_bytes(self, tokens: int) -> int:
        return tokens * self._hidden * self._dtype.itemsize

    def _verify(self, sample: bytes) -> _Entry | None:
        entry = self._entries.get(sample)
        if entry is None or entry.verified:
            return entry
        payload = self._read(entry)
        if payload is None:
            return None
        if xxhash.xxh3_64_intdigest(payload) != entry.checksum:
            self._drop(entry.segment, "holds damaged states")
            return None
        entry.verified = True
        return entry

    def _read(self, entry: _Entry) -> memoryview | None:
        """The payload; ``None`` when another run has deleted the segment, or something has cut it short."""
        size_bytes = self._payload_bytes(entry.tokens)
        try:
            payload = entry.segment.read(entry.offset, size_bytes)
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            payload = memoryview(b"")
        if len(payload) == size_bytes:
            return payload
        self._drop(entry.segment, "has been deleted or cut short")
        return None

    def _load_segments(self) -> None:
        for data in sorted(self._folder.glob("*.data")):
            segment = _Segment(data)
            try:
                entries = self._read_index(segment)
            except FileNotFoundError:  # another run has just deleted it
                continue
            if entries is not None:
                self._entries.update(entries)
        for index in self._folder.glob("*.index"):
            if not index.with_suffix(".data").exists():
                index.unlink(missing_ok=True)

    def _read_index(self, segment: _Segment) -> dict[bytes, _Entry] | None:
        index = segment.data.with_suffix(".index")
        if not index.exists():  # another process is just opening it, or was killed before it did
            return None
        raw = index.read_bytes()
        size_bytes = segment.data.stat().st_size
        with segment.data.open("rb") as file:
            header = file.read(len(self._header))
        if header != self._header or not raw.startswith(self._header):
            self._drop(segment, "is not of this cache")
            return None
        entries = {}
        body = raw[len(self._header) :]
        for start in range(0, len(body) - _RECORD_BYTES + 1, _RECORD_BYTES):
            record = body[start : start + _RECORD.size]
            (checksum,) = _CHECKSUM.unpack_from(body, start + _RECORD.size)
            sample, offset, tokens, payload_checksum = _RECORD.unpack(record)
            if zlib.crc32(record) != checksum or offset + self._payload_bytes(tokens) > size_bytes:
                self._drop(segment, "is damaged or cut short")
                return None
            entries[sample] = _Entry(segment, offset, tokens, payload_checksum)
        return entries

    def _drop(self, segment: _Segment, what: str) -> None:
        log.warning("trunk cache: %s %s; it is deleted and will be rebuilt", segment.data.name, what)
        self._entries = {sample: entry for sample, entry in self._entries.items() if entry.segment is not segment}
        if self._writer is not None and self._writer.segment is segment:
            self._writer.close()
            self._writer = None
        segment.delete()

    def _open_writer(self) -> _Writer:
        self._folder.mkdir(parents=True, exist_ok=True)  # another run may have made room by deleting it
        self._writer = _Writer(self._folder / f"{uuid.uuid4().hex}.data", self._header)
        return self._writer

    def _stop_writing(self, what: str) -> None:
        log.warning("trunk cache in %s %s; what is not in it is computed each time", self._root, what)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._closed_for_writing = True

    def _make_room(self, needed: int) -> bool:
        """Deletes the keys used longest ago, never this one, until ``needed`` bytes fit; false if they cannot."""
        if self._size_bytes + needed <= self._max_bytes and self._bytes_since_count <= self._max_bytes // 100:
            return True
        self._count()
        others = [folder for folder in self._root.iterdir() if folder.is_dir() and folder.name != self._key]
        for folder in sorted(others, key=_last_use):
            if self._size_bytes + needed <= self._max_bytes:
                break
            log.info("trunk cache: %s is deleted to make room", folder.name)
            shutil.rmtree(folder, ignore_errors=True)  # another run may be writing there, or deleting it as well
            self._count()
        return self._size_bytes + needed <= self._max_bytes

    def _count(self) -> None:
        self._size_bytes = _tree_bytes(self._root)
        self._bytes_since_count = 0


class _Writer:
    """Appends to this process's own segment: first the payload, then the record that makes it count."""

    def __init__(self, data: Path, header: bytes) -> None:
        self.segment = _Segment(data)
        self._data: BinaryIO = data.open("xb", buffering=0)
        opening = data.with_suffix(".opening")
        self._index: BinaryIO = opening.open("xb", buffering=0)
        _write_all(self._data, header)
        _write_all(self._index, header)
        opening.rename(data.with_suffix(".index"))  # whole at once: another run may be reading the folder
        self._offset = len(header)

    def append(self, sample: bytes, payload: bytes, tokens: int) -> _Entry:
        _write_all(self._data, payload)
        checksum = xxhash.xxh3_64_intdigest(payload)
        record = _RECORD.pack(sample, self._offset, tokens, checksum)
        _write_all(self._index, record + _CHECKSUM.pack(zlib.crc32(record)))
        entry = _Entry(self.segment, self._offset, tokens, checksum, verified=True)
        self._offset += len(payload)
        return entry

    def close(self) -> None:
        self._data.close()
        self._index.close()


def _write_all(file: BinaryIO, payload: bytes) -> None:
    """Unbuffered ``write`` may write less than asked, and a full disk shows as an error only at the next one."""
    view = memoryview(payload)
    while view:
        written = file.write(view)
        view = view[written:]


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another run has just deleted it
            continue
        total += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return total


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
