"""A device's adapter, kept in the run's folder: good as long as what it was made of, and its own files, are as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash

_MADE_OF = "made_of.json"


def newest_checkpoint(run: Path) -> Path:
    """The file of the newest checkpoint; a name that no file has where there is none."""
    folder = run / "checkpoints"
    return max(folder.glob("round-*.checkpoint"), default=folder / "none")


def note_kept(adapter: Path, sources: Sequence[Path]) -> None:
    """Writes down what the folder ``adapter`` was made of.

    Args:
        sources: files, or folders of files.
    """
    (adapter / _MADE_OF).write_text(json.dumps(_digests(adapter, sources), indent=1) + "\n", encoding="utf-8")


def is_kept(adapter: Path, sources: Sequence[Path]) -> bool:
    """Whether the folder ``adapter`` is still what was made of ``sources``, with every file of both as it was."""
    try:
        return bool(json.loads((adapter / _MADE_OF).read_text(encoding="utf-8")) == _digests(adapter, sources))
    except (OSError, ValueError, RecursionError):
        return False


def _digests(adapter: Path, sources: Sequence[Path]) -> dict[str, str]:
    return {f"{file.parent.name}/{file.name}": _digest(file) for place in (*sources, adapter) for file in _files(place)}


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(file for file in place.iterdir() if file.is_file() and file.name != _MADE_OF)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        made = xxhash.xxh3_128()
        while block := content.read(1 << 20):
            made.update(block)
    return made.hexdigest()
