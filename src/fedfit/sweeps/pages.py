"""Writes the pages and the figure of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedfit.atomic import write_atomic
from fedfit.errors import RunFolderError


def write_pages(out: Path, pages: Mapping[str, str], draw: Callable[[], list[Path]]) -> list[Path]:
    """Writes ``pages`` (text by file name) into ``out`` and calls ``draw``; returns all paths, those of the figure first.

    Raises:
        RunFolderError: when ``out`` cannot be written.
    """
    try:
        for name, text in pages.items():
            write_atomic(out / name, text.encode())
        return [*draw(), *(out / name for name in pages)]
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror or error}): free space or make it writable") from error
