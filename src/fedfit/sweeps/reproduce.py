"""What ``fedfit reproduce`` calls: run the sweep of a figure or a comparison, then write what it shows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fedfit.atomic import write_atomic
from fedfit.errors import Fault, RecipeError, RunFolderError
from fedfit.sweeps.bases import SCALES
from fedfit.sweeps.collect import collect, rounds_csv, rows_csv, summary_csv
from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.comparison_pages import finished_part, write_comparison
from fedfit.sweeps.comparison_run import run_comparison
from fedfit.sweeps.describe import caption, settings_text
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.mixed_ranks import NAME as MIXED_RANKS
from fedfit.sweeps.mixed_ranks import SCALES as MIXED_RANKS_SCALES
from fedfit.sweeps.mixed_ranks import mixed_ranks
from fedfit.sweeps.runner import Progress, run_sweep
from fedfit.sweeps.sweep import Sweep
from fedfit.sweeps.verdicts import verdicts_text

COMPARISONS: dict[str, tuple[Callable[[str], Comparison], Sequence[str]]] = {
    MIXED_RANKS: (mixed_ranks, MIXED_RANKS_SCALES),
}
"""What ``fedfit reproduce`` knows beside ``FIGURES``, with the scales that each has."""


def reproduce(
    figure: str,
    scale: str = "small",
    seeds: int | None = None,
    out: Path | None = None,
    *,
    force: bool = False,
    only: str | None = None,
) -> Iterator[Progress]:
    """Runs what is left of ``figure`` at ``scale``. Names and number of seeds are checked before the first step.

    Args:
        figure: one of ``FIGURES`` or of ``COMPARISONS``.
        seeds: how many, counted from 0; by default as many as the scale has.
        out: where; by default :func:`default_out`.
        force: runs anew what is there with another recipe.
        only: of a comparison, the cases whose names have this text (``ag_news``, ``sst2-0.1``).

    Raises:
        FedfitError: as :func:`fedfit.sweeps.runner.run_sweep` does, and for an unknown figure, scale or case.
    """
    out = out or default_out(figure, scale)
    if figure in COMPARISONS:
        comparison = find_comparison(figure, scale)
        wanted = comparison if only is None else comparison.only(_matching(comparison, only))
        return run_comparison(wanted, _seeds(comparison.default_seeds, seeds), out, force=force)
    sweep = find_sweep(figure, scale)
    _refuse_only(figure, only)
    return run_sweep(sweep, _seeds(sweep.default_seeds, seeds), out, force=force)


def write_results(
    figure: str, scale: str = "small", seeds: int | None = None, out: Path | None = None, *, only: str | None = None
) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    With ``only``, they are written of every case that is finished by now, those of other calls included.

    Raises:
        FedfitError: for an unknown figure, scale or case, a run that is not finished, or a folder that cannot be written.
    """
    out = out or default_out(figure, scale)
    if figure in COMPARISONS:
        comparison = find_comparison(figure, scale)
        count = _seeds(comparison.default_seeds, seeds)
        if only is not None:
            _matching(comparison, only)
            comparison = finished_part(comparison, count, out)
        return write_comparison(comparison, count, out)
    sweep = find_sweep(figure, scale)
    _refuse_only(figure, only)
    return write_sweep(sweep, _seeds(sweep.default_seeds, seeds), out)


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
    known = [*FIGURES, *COMPARISONS]
    faults = [fault for fault in (_unknown("figure", figure, known), _unknown("--scale", scale, SCALES)) if fault]
    if faults:
        raise RecipeError(faults)
    return FIGURES[figure](scale)


def find_comparison(name: str, scale: str) -> Comparison:
    """The comparison ``name``, which must be one of ``COMPARISONS``.

    Raises:
        RecipeError: for a scale that it does not have.
    """
    make, scales = COMPARISONS[name]
    if scale not in scales:
        raise RecipeError([Fault("--scale", scale, f"{name} has no such scale; choose one of {', '.join(scales)}")])
    return make(scale)


def _matching(comparison: Comparison, only: str) -> list[Case]:
    cases = comparison.matching(only)
    if not cases:
        names = ", ".join(case.slug for case in comparison.cases)
        raise RecipeError([Fault("--only", only, f"is in no case's name; there are {names}")])
    return cases


def _refuse_only(figure: str, only: str | None) -> None:
    if only is not None:
        raise RecipeError([Fault("--only", only, f"{figure} has no cases to choose from; leave it out")])


def _seeds(default: int, seeds: int | None) -> int:
    if seeds is not None and seeds < 1:
        raise RecipeError([Fault("--seeds", seeds, "must be at least 1")])
    return seeds or default


def _unknown(key: str, given: str, known: Iterable[str]) -> Fault | None:
    names = list(known)
    if given in names:
        return None
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return Fault(key, given, f"{hint}choose one of {', '.join(names)}")
