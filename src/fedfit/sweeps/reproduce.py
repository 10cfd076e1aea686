"""What ``fedfit reproduce`` calls: run a figure's sweep, then write what it shows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedfit.errors import Fault, RecipeError, RunFolderError
from fedfit.sweeps.bases import SCALES
from fedfit.sweeps.collect import collect, rounds_csv, rows_csv, summary_csv
from fedfit.sweeps.describe import caption, settings_text
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.runner import Progress, run_sweep
from fedfit.sweeps.sweep import Sweep
from fedfit.sweeps.verdicts import verdicts_text
from fedfit.tracking.atomic import write_atomic


def reproduce(
    figure: str, scale: str = "small", seeds: int | None = None, out: Path | None = None, *, force: bool = False
) -> Iterator[Progress]:
    """Runs what is left of ``figure`` at ``scale``. Names and number of seeds are checked before the first step.

    Args:
        seeds: how many, counted from 0; by default as many as the scale has.
        out: where; by default :func:`default_out`.
        force: runs anew what is there with another recipe.

    Raises:
        FedfitError: as :func:`fedfit.sweeps.runner.run_sweep` does, and for an unknown figure or scale.
    """
    sweep = find_sweep(figure, scale)
    return run_sweep(sweep, _seeds(sweep, seeds), out or default_out(figure, scale), force=force)


def write_results(figure: str, scale: str = "small", seeds: int | None = None, out: Path | None = None) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        FedfitError: for an unknown figure or scale, a run that is not finished, or a folder that cannot be written.
    """
    sweep = find_sweep(figure, scale)
    return write_sweep(sweep, _seeds(sweep, seeds), out or default_out(figure, scale))


def write_sweep(sweep: Sweep, seeds: int, out: Path) -> list[Path]:
    """:func:`write_results` of any sweep that bears the name of one of ``FIGURES``."""
    rows = collect(sweep, seeds, out)
    pages = {
        f"{sweep.name}.csv": rows_csv(rows),
        f"{sweep.name}-summary.csv": summary_csv(rows),
        f"{sweep.name}-rounds.csv": rounds_csv(rows),
        "settings.md": settings_text(sweep, seeds),
        "verdicts.md": verdicts_text(sweep.name, rows),
    }
    try:
        for name, text in pages.items():
            write_atomic(out / name, text.encode())
        return [*write_figure(sweep, rows, caption(sweep, seeds), out), *(out / name for name in pages)]
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror or error}): free space or make it writable") from error


def default_out(figure: str, scale: str) -> Path:
    """Where a figure goes unless told otherwise."""
    return Path("runs") / f"{figure}-{scale}"


def find_sweep(figure: str, scale: str) -> Sweep:
    """The sweep behind a figure's name.

    Raises:
        RecipeError: for a name or a scale that is none.
    """
    faults = [fault for fault in (_unknown("figure", figure, FIGURES), _unknown("--scale", scale, SCALES)) if fault]
    if faults:
        raise RecipeError(faults)
    return FIGURES[figure](scale)


def _seeds(sweep: Sweep, seeds: int | None) -> int:
    if seeds is not None and seeds < 1:
        raise RecipeError([Fault("--seeds", seeds, "must be at least 1")])
    return seeds or sweep.default_seeds


def _unknown(key: str, given: str, known: Iterable[str]) -> Fault | None:
    names = list(known)
    if given in names:
        return None
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return Fault(key, given, f"{hint}choose one of {', '.join(names)}")
