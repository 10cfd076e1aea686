"""The folder of files that later runs reuse."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$FEDFIT_CACHE``, else ``$XDG_CACHE_HOME/fedfit``, else ``~/.cache/fedfit``. It need not exist yet."""
    if chosen := os.environ.get("FEDFIT_CACHE"):
        return Path(chosen).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "fedfit"
    return Path.home() / ".cache" / "fedfit"
