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
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from fedfit.models.cache_segment import RECORD_BYTES, Entry, Segment, SegmentDamagedError, SegmentWriter, header
from fedfit.units import format_bytes

log = logging.getLogger(__name__)

_KEY = re.compile("[0-9a-f]{32}")


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
        self._header = header(key)
        self._entries: dict[bytes, Entry] = {}
        self._writer: SegmentWriter | None = None
        self._closed_for_writing = False
        self._size_bytes = 0
        self._bytes_since_count = 0  # what other processes add shows only when the folder is counted anew
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            os.utime(self._folder)
            self._load_segments()
            self._count()
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
        needed = len(payload) + RECORD_BYTES + (0 if self._writer is not None else 2 * len(self._header))
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

    def _verify(self, sample: bytes) -> Entry | None:
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

    def _read(self, entry: Entry) -> memoryview | None:
        """The payload; ``None`` when another run has deleted the segment, or something has cut it short."""
        try:
            payload = entry.segment.read(entry.offset, entry.size_bytes)
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            payload = memoryview(b"")
        if len(payload) == entry.size_bytes:
            return payload
        self._drop(entry.segment, "has been deleted or cut short")
        return None

    def _load_segments(self) -> None:
        for data in sorted(self._folder.glob("*.data")):
            segment = Segment(data)
            try:
                self._entries.update(segment.entries(self._header, self._hidden * self._dtype.itemsize))
            except SegmentDamagedError as error:
                self._drop(segment, str(error))
            except FileNotFoundError:  # another run has just deleted it
                continue
        for index in self._folder.glob("*.index"):
            if not index.with_suffix(".data").exists():
                index.unlink(missing_ok=True)

    def _drop(self, segment: Segment, what: str) -> None:
        log.warning("trunk cache: %s %s; it is deleted and will be rebuilt", segment.data.name, what)
        self._entries = {sample: entry for sample, entry in self._entries.items() if entry.segment is not segment}
        if self._writer is not None and self._writer.segment is segment:
            self._writer.close()
            self._writer = None
        segment.delete()

    def _open_writer(self) -> SegmentWriter:
        self._folder.mkdir(parents=True, exist_ok=True)  # another run may have made room by deleting it
        self._writer = SegmentWriter(self._folder / f"{uuid.uuid4().hex}.data", self._header)
        return self._writer

    def _stop_writing(self, what: str) -> None:
        log.warning("trunk cache in %s %s; other samples are computed each time", self._root, what)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._closed_for_writing = True

    def _make_room(self, needed: int) -> bool:
        """Deletes the keys used longest ago, never this one, until ``needed`` bytes fit; false if they cannot."""
        if self._size_bytes + needed <= self._max_bytes and self._bytes_since_count <= self._max_bytes // 100:
            return True
        self._count()
        others = [folder for folder in _key_folders(self._root) if folder.name != self._key]
        for folder in sorted(others, key=_last_use):
            if self._size_bytes + needed <= self._max_bytes:
                break
            log.info("trunk cache: %s is deleted to make room", folder.name)
            shutil.rmtree(folder, ignore_errors=True)  # another run may be writing there, or deleting it as well
            self._count()
        return self._size_bytes + needed <= self._max_bytes

    def _count(self) -> None:
        self._size_bytes = sum(_tree_bytes(folder) for folder in _key_folders(self._root))
        self._bytes_since_count = 0


def _key_folders(root: Path) -> Iterator[Path]:
    """The folders of keys; the root may be the user's own, with other things in it, which are none of the cache's."""
    return (folder for folder in root.iterdir() if folder.is_dir() and _KEY.fullmatch(folder.name))


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
