"""The pages that every sweep has, and writing the pages of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedfit.atomic import write_atomic
from fedfit.errors import RunFolderError
from fedfit.sweeps.csv_files import rounds_csv, rows_csv, summary_csv
from fedfit.sweeps.describe import settings_text
from fedfit.sweeps.rows import Row
from fedfit.sweeps.sweep import Sweep


def sweep_pages(sweep: Sweep, rows: Sequence[Row]) -> dict[str, str]:
    """File name → text of the tables and settings of any sweep."""
    return {
        f"{sweep.name}.csv": rows_csv(sweep, rows),
        f"{sweep.name}-summary.csv": summary_csv(sweep, rows),
        f"{sweep.name}-rounds.csv": rounds_csv(sweep, rows),
        "settings.md": settings_text(sweep),
    }


def write_pages(out: Path, pages: Mapping[str, str], draw: Callable[[], list[Path]]) -> list[Path]:
    """Writes ``pages`` (text by file name) into ``out`` and calls ``draw``; returns all paths, the figure's first.

    Raises:
        RunFolderError: if ``out`` cannot be written.
    """
    try:
        for name, text in pages.items():
            write_atomic(out / name, text.encode())
        return [*draw(), *(out / name for name in pages)]
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror or error}): free space or make it writable") from error
