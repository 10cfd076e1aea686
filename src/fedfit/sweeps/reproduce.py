"""The studies that ``fedfit reproduce`` knows: figures of a paper, and comparisons of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from fedfit.errors import Fault, RecipeError, did_you_mean
from fedfit.sweeps.bases import SCALES
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.comparison_pages import finished_part, write_comparison
from fedfit.sweeps.comparison_run import comparison_stages
from fedfit.sweeps.describe import caption
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.mixed_ranks import NAME as MIXED_RANKS
from fedfit.sweeps.mixed_ranks import SCALES as MIXED_RANKS_SCALES
from fedfit.sweeps.mixed_ranks import mixed_ranks
from fedfit.sweeps.pages import sweep_pages, write_pages
from fedfit.sweeps.rows import collect
from fedfit.sweeps.runner import Stage
from fedfit.sweeps.study import Study
from fedfit.sweeps.sweep import Sweep
from fedfit.sweeps.verdicts import verdicts_text

COMPARISONS: dict[str, tuple[Callable[[str], Comparison], Sequence[str]]] = {
    MIXED_RANKS: (mixed_ranks, MIXED_RANKS_SCALES),
}
"""What ``fedfit reproduce`` knows beside ``FIGURES``, with the scales that each has."""


def find_study(figure: str, scale: str = "small", seeds: int | None = None, *, only: str | None = None) -> Study:
    """The study behind the name of a figure or a comparison; runs nothing.

    Args:
        figure: one of ``FIGURES`` or of ``COMPARISONS``.
        seeds: how many, counted from 0; by default as many as the scale has.
        only: of a comparison, the cases whose names have this text (``ag_news``, ``sst2-0.1``). Pages are then written of
            every case that is finished, those of other calls included.

    Raises:
        RecipeError: for an unknown figure, scale or case, or fewer seeds than one; all of them at once.
    """
    faults = [*_name_faults(figure, scale), *_seed_faults(seeds)]
    if figure in FIGURES and only is not None:
        faults.append(Fault("--only", only, f"{figure} has no cases to choose from; leave it out"))
    if faults:
        raise RecipeError(faults, "the command")
    if figure in COMPARISONS:
        return comparison_study(COMPARISONS[figure][0](scale).with_seeds(seeds), only)
    return figure_study(FIGURES[figure](scale).with_seeds(seeds))


def figure_study(sweep: Sweep) -> Study:
    """A study of one sweep that bears the name of one of ``FIGURES``."""
    return Study(
        sweep.name,
        Path("runs") / f"{sweep.name}-{sweep.scale}",
        lambda out: [Stage.of(sweep, out)],
        partial(write_sweep, sweep),
        sweep.metric,
    )


def comparison_study(comparison: Comparison, only: str | None = None) -> Study:
    """A study of a search of learning rates and the main runs; ``only`` as in :func:`find_study`.

    Raises:
        RecipeError: when no case has ``only`` in its name.
    """
    wanted = comparison
    if only is not None:
        cases = comparison.matching(only)
        if not cases:
            names = ", ".join(case.slug for case in comparison.cases)
            raise RecipeError([Fault("--only", only, f"no case has this in its name; choose from {names}")], "the command")
        wanted = comparison.only(cases)

    def write(out: Path) -> list[Path]:
        return write_comparison(comparison if only is None else finished_part(comparison, out), out)

    out = Path("runs") / f"{comparison.name}-{comparison.scale}"
    return Study(comparison.name, out, partial(comparison_stages, wanted), write, comparison.metric)


def write_sweep(sweep: Sweep, out: Path) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        RunFolderError: for a run that is not finished, or a folder that cannot be written.
    """
    rows = collect(sweep, out)
    pages = sweep_pages(sweep, rows) | {"verdicts.md": verdicts_text(sweep.name, rows)}
    return write_pages(out, pages, lambda: write_figure(sweep, rows, caption(sweep), out))


def _name_faults(figure: str, scale: str) -> list[Fault]:
    figures = [*FIGURES, *COMPARISONS]
    scales = COMPARISONS[figure][1] if figure in COMPARISONS else SCALES
    what = f"{figure} has no such scale" if figure in figures else "unknown scale"
    faults = (_unknown("figure", figure, figures, "unknown figure"), _unknown("--scale", scale, scales, what))
    return [fault for fault in faults if fault is not None]


def _seed_faults(seeds: int | None) -> list[Fault]:
    return [Fault("--seeds", seeds, "must be at least 1")] if seeds is not None and seeds < 1 else []


def _unknown(key: str, given: str, known: Iterable[str], what: str) -> Fault | None:
    """A name one digit off another figure is another figure, so a figure is guessed by its letters alone."""
    names = list(known)
    if given in names:
        return None
    lettered = [name for name in names if not (name[:-1] == given[:-1] and name[-1:].isdigit() and given[-1:].isdigit())]
    return Fault(key, given, f"{what}; {did_you_mean(given, lettered)}choose one of {', '.join(names)}")
