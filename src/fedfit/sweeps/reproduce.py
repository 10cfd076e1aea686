"""The studies of ``fedfit reproduce``: figures of a paper, and comparisons of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from fedfit.errors import Fault, RecipeError, did_you_mean
from fedfit.sweeps.bases import SCALES
from fedfit.sweeps.commonsense import NAME as COMMONSENSE
from fedfit.sweeps.commonsense import commonsense
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.comparison_pages import finished_part, write_comparison
from fedfit.sweeps.comparison_run import comparison_stages
from fedfit.sweeps.describe import caption
from fedfit.sweeps.fdlora_ablations import NAME as ABLATIONS
from fedfit.sweeps.fdlora_ablations import fdlora_ablations
from fedfit.sweeps.figure import write_figure
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.instructions import NAME as INSTRUCTIONS
from fedfit.sweeps.instructions import instructions
from fedfit.sweeps.language_base import SCALES as LANGUAGE_SCALES
from fedfit.sweeps.mixed_ranks import NAME as MIXED_RANKS
from fedfit.sweeps.mixed_ranks import SCALES as MIXED_RANKS_SCALES
from fedfit.sweeps.mixed_ranks import mixed_ranks
from fedfit.sweeps.pages import sweep_pages, write_pages
from fedfit.sweeps.personal import NAME as PERSONAL
from fedfit.sweeps.personal import SCALES as PERSONAL_SCALES
from fedfit.sweeps.personal import personal
from fedfit.sweeps.personal_scenes import SCENES
from fedfit.sweeps.preferences import NAME as PREFERENCES
from fedfit.sweeps.preferences import preferences
from fedfit.sweeps.rows import collect
from fedfit.sweeps.runner import Stage
from fedfit.sweeps.study import Study
from fedfit.sweeps.sweep import Sweep
from fedfit.sweeps.transport import NAME as TRANSPORT
from fedfit.sweeps.transport import SCALES as TRANSPORT_SCALES
from fedfit.sweeps.transport import transport
from fedfit.sweeps.verdicts import verdicts_text

COMPARISONS: dict[str, tuple[Callable[[str], Comparison], Sequence[str]]] = {
    MIXED_RANKS: (mixed_ranks, MIXED_RANKS_SCALES),
    COMMONSENSE: (commonsense, LANGUAGE_SCALES),
    INSTRUCTIONS: (instructions, LANGUAGE_SCALES),
    PREFERENCES: (preferences, LANGUAGE_SCALES),
    PERSONAL: (personal, PERSONAL_SCALES),
    ABLATIONS: (fdlora_ablations, PERSONAL_SCALES),
    TRANSPORT: (transport, TRANSPORT_SCALES),
    **{name: (scene, PERSONAL_SCALES) for name, scene in SCENES.items()},
}
"""The studies beside ``FIGURES``: name → function that makes the comparison, and its scales."""


def find_study(figure: str, scale: str = "small", seeds: int | None = None, *, only: str | None = None) -> Study:
    """The study of the named figure or comparison; runs nothing.

    Args:
        figure: one of ``FIGURES`` or of ``COMPARISONS``.
        seeds: the number of seeds, counted from 0; by default the scale's number.
        only: restricts a comparison to the cases whose names contain this text (``ag_news``, ``sst2-0.1``). The pages then
            cover every finished case, including those of other calls.

    Raises:
        RecipeError: for an unknown figure, scale or case, or fewer seeds than one; all faults at once.
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
    """The study of one sweep, named as one of ``FIGURES``."""
    return Study(
        sweep.name,
        Path("runs") / f"{sweep.name}-{sweep.scale}",
        lambda out: [Stage.of(sweep, out)],
        partial(write_sweep, sweep),
        sweep.metric,
    )


def comparison_study(comparison: Comparison, only: str | None = None) -> Study:
    """The study of a comparison: the search for learning rates, then the main runs; ``only`` as in :func:`find_study`.

    Raises:
        RecipeError: if no case's name contains ``only``.
    """
    wanted = comparison
    if only is not None:
        cases = comparison.matching(only)
        if not cases:
            names = ", ".join(case.slug for case in comparison.cases)
            raise RecipeError([Fault("--only", only, f"no case's name contains this text; choose from {names}")], "the command")
        wanted = comparison.only(cases)

    def write(out: Path) -> list[Path]:
        return write_comparison(comparison if only is None else finished_part(comparison, out), out)

    out = Path("runs") / f"{comparison.name}-{comparison.scale}"
    return Study(comparison.name, out, partial(comparison_stages, wanted), write, comparison.metric)


def write_sweep(sweep: Sweep, out: Path) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        RunFolderError: for an unfinished run, or a folder that cannot be written.
    """
    rows = collect(sweep, out)
    pages = sweep_pages(sweep, rows) | {"verdicts.md": verdicts_text(sweep.name, rows)}
    return write_pages(out, pages, lambda: write_figure(sweep, rows, caption(sweep), out))


def _name_faults(figure: str, scale: str) -> list[Fault]:
    figures = [*FIGURES, *COMPARISONS]
    scales = COMPARISONS[figure][1] if figure in COMPARISONS else SCALES
    problem = f"{figure} has no such scale" if figure in figures else "unknown scale"
    faults = (_unknown("figure", figure, figures, "unknown figure"), _unknown("--scale", scale, scales, problem))
    return [fault for fault in faults if fault is not None]


def _seed_faults(seeds: int | None) -> list[Fault]:
    return [Fault("--seeds", seeds, "must be at least 1")] if seeds is not None and seeds < 1 else []


def _unknown(key: str, given: str, known: Iterable[str], problem: str) -> Fault | None:
    """The fault of an unknown name, or ``None``. Names that differ in their last digit alone are no suggestion."""
    names = list(known)
    if given in names:
        return None
    lettered = [name for name in names if not (name[:-1] == given[:-1] and name[-1:].isdigit() and given[-1:].isdigit())]
    return Fault(key, given, f"{problem}; {did_you_mean(given, lettered)}choose one of {', '.join(names)}")
