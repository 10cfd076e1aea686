"""Entry points of ``fedfit report`` and ``fedfit compare``: from run folders to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedfit.errors import RunFolderError
from fedfit.reports.figures import write_figures
from fedfit.reports.html import write_html
from fedfit.reports.overlay import overlay
from fedfit.reports.read import RunData, read_run

FIGURES_FOLDER = "figures"
PAGE_FILE = "report.html"


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write ``figures/`` and ``report.html`` of the run in ``folder``; return the paths, page last.

    Args:
        out: the folder to write into; by default ``folder`` itself.

    Raises:
        RunFolderError: if ``folder`` cannot be read as a run, or the report cannot be written.
    """
    run = read_run(folder)
    target = folder if out is None else out
    with _writing(target):
        figures = write_figures(run, target / FIGURES_FOLDER)
        return [*figures, write_html(run, figures, target / PAGE_FILE)]


def write_comparison(runs: Sequence[RunData], out: Path) -> list[Path]:
    """Draw the curves of all ``runs`` in shared figures in ``out``; return the paths.

    Raises:
        RunFolderError: if the figures cannot be written.
    """
    with _writing(out):
        return overlay(runs, out)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(f"{target} cannot be written ({reason}): free space or choose another folder") from error
