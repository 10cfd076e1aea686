"""The check that a folder is a run's, with one text for every command that is given another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedfit.errors import RunFolderError

_REMEDY = "name the folder of a run, or make one with `fedfit run RECIPE --out DIR`"


def why_no_run(folder: Path, needed: Sequence[str]) -> str | None:
    """The reason that ``folder`` is no run's, for a sentence that begins with its path; ``None`` if it has ``needed`` files."""
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    missing = [name for name in needed if not (folder / name).is_file()]
    return f"is not a run folder, it lacks {' and '.join(missing)}" if missing else None


def check_is_run(folder: Path, needed: Sequence[str]) -> None:
    """Raises ``RunFolderError`` for a folder that lacks one of ``needed`` files."""
    reason = why_no_run(folder, needed)
    if reason is not None:
        raise RunFolderError(f"{folder} {reason}: {_REMEDY}")
