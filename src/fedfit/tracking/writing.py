"""A failed write, turned into an error that a person can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedfit.errors import RunFolderError


@contextmanager
def writing(folder: Path, *, resumable: bool = True) -> Iterator[None]:
    """Everything inside writes below the run folder ``folder``; ``resumable`` says whether a run can go on from there.

    Raises:
        RunFolderError: with the remedy, in place of an ``OSError`` or its like.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors writes by itself and has an error of its own, with the system's words in it
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = getattr(error, "strerror", None) or error
        remedy = "free some space" if full else "make it writable"
        again = f"`fedfit resume {folder}`" if resumable else "run again with --force"
        raise RunFolderError(f"{folder} cannot be written: {reason}; {remedy}, then {again}") from error
