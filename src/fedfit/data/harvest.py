"""Shared by the data sets that are made from installed sources: projects, versions, the test part, balance, the cache."""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import logging
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from fedfit.core.cache_folder import cache_folder
from fedfit.data.docstrings_cache import read_rows, write_rows
from fedfit.errors import DataError

PROJECTS = ("matplotlib", "pandas", "python", "torch", "transformers")
"""Each has docstrings by the thousand, and comes with this package; ``python`` is the standard library."""

TEST_SHARE = 0.2

R = TypeVar("R", bound=tuple[str, ...])

log = logging.getLogger(__name__)


def cached_rows(source: str, key: str, make: Callable[..., R], harvest: Callable[[], list[R]]) -> list[R]:
    """The rows kept under ``key``; where they are absent or damaged, those of ``harvest``, which are then kept.

    Args:
        source: name of the data set, which is also that of its folder in the cache.
        make: a row of its cells.
    """
    path = cache_folder() / source / f"{key}.jsonl"
    rows = read_rows(path, make)
    if rows is None:
        with _without_collector():
            rows = harvest()
        try:
            write_rows(path, rows)
        except OSError as error:
            log.warning("%s is not cached (%s: %s); it will be harvested anew each time", source, path, error.strerror)
    return rows


@contextmanager
def _without_collector() -> Iterator[None]:
    """Syntax trees have no cycles, and collecting while millions of nodes come and go costs more than parsing them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def letters(text: str) -> str:
    """The letters a to z of ``text`` in lower case: texts that are equal in these count as one."""
    return re.sub(r"[^a-z]", "", text.lower())


def hash_of(text: str) -> int:
    """64 bits that depend on the letters of ``text`` alone."""
    return int.from_bytes(hashlib.blake2b(letters(text).encode(), digest_size=8).digest(), "big")


def split_of(text: str) -> str:
    """``test`` for a share ``TEST_SHARE`` of all texts, else ``train``."""
    return "test" if hash_of(text) < TEST_SHARE * 2**64 else "train"


def balanced(rows: Iterable[R], projects: Sequence[str], project: str, text: str) -> list[R]:
    """As many rows of each project, in each split, as the poorest project has there; in the order of hashes, so they mix.

    ``project`` and ``text`` name the fields of a row that hold its project and the text whose hash orders it.
    """

    def group(row: R) -> tuple[str, str]:
        return getattr(row, "split"), getattr(row, project)  # noqa: B009 - a row is any named tuple with a split

    ordered = sorted(rows, key=lambda row: (hash_of(getattr(row, text)), getattr(row, project)))
    counts = Counter(group(row) for row in ordered)
    room = {(split, name): min(counts[split, other] for other in projects) for split, name in counts}
    kept = []
    for row in ordered:
        if room[group(row)] > 0:
            room[group(row)] -= 1
            kept.append(row)
    return kept


def versions_key(source: str, harvest_version: int, projects: Sequence[str]) -> str:
    """Names the versions that a harvest depends on. Raises ``DataError`` for a project that is not installed."""
    versions = [f"v{harvest_version}", f"python-{platform.python_version()}"]
    for project in projects:
        if project != "python":
            versions.append(f"{project}-{_version(source, project)}")
    return "_".join(versions)


def _version(source: str, project: str) -> str:
    try:
        return importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"data.source = {source!r} reads the sources of {project}: install it, or choose another") from None
