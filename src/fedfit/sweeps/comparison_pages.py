"""Writes the figure and pages of a comparison from its finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedfit.errors import RunFolderError
from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.comparison_figure import write_comparison_figure
from fedfit.sweeps.comparison_run import main_sweep
from fedfit.sweeps.comparison_table import table_page
from fedfit.sweeps.comparison_verdicts import verdicts_page
from fedfit.sweeps.csv_files import rounds_csv, rows_csv, summary_csv
from fedfit.sweeps.describe import caption, settings_text
from fedfit.sweeps.pages import write_pages
from fedfit.sweeps.rate_search import Trial, rates_csv, read_trials
from fedfit.sweeps.rows import Row, collect
from fedfit.sweeps.run_folders import unfinished
from fedfit.sweeps.skew_figure import write_skew_figure


def finished_part(comparison: Comparison, out: Path) -> Comparison:
    """``comparison`` with only the cases whose runs are all finished with the current recipe.

    Raises:
        RunFolderError: if no case is finished.
    """
    cases = [case for case in comparison.cases if _is_finished(comparison, case, out)]
    if not cases:
        raise RunFolderError(f"{out}: no case is finished yet; `fedfit reproduce {comparison.name}` continues them")
    return comparison.only(cases)


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        FedfitError: if a run is missing, unfinished or has another recipe, or ``out`` cannot be written.
    """
    rows = collect_comparison(comparison, out)
    trials = _trials(comparison, out)
    whole = comparison.whole()
    pages = {**row_pages(comparison, rows, trials), "settings.md": settings_text(whole)}
    return write_pages(out, pages, lambda: draw_comparison(comparison, rows, out))


def draw_comparison(comparison: Comparison, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws the figures of ``rows`` into ``folder``; returns the paths."""
    words = caption(comparison.whole())
    return [
        *write_comparison_figure(comparison, rows, words, folder),
        *write_skew_figure(comparison, rows, words, folder),
    ]


def collect_comparison(comparison: Comparison, out: Path) -> list[Row]:
    """A row for every run, sorted by case and method in the comparison's order, then by seed.

    Raises:
        RunFolderError: if a run is missing, unfinished or has another recipe.
    """
    rows: list[Row] = []
    for case in comparison.cases:
        sweep = main_sweep(comparison, case, out)
        if sweep is None:
            remedy = f"`fedfit reproduce {comparison.name}` with the same options continues it"
            folder = comparison.search_folder(case.source, out)
            raise RunFolderError(f"the search for the learning rates in {folder} is not finished: {remedy}")
        rows += collect(sweep, out / case.slug)
    return rows


def row_pages(comparison: Comparison, rows: Sequence[Row], trials: Sequence[Trial]) -> dict[str, str]:
    """File name → text of the pages that depend on rows and trials alone."""
    whole = comparison.whole()
    return {
        "table.md": table_page(comparison, rows, trials),
        f"{comparison.name}.csv": rows_csv(whole, rows),
        f"{comparison.name}-summary.csv": summary_csv(whole, rows),
        f"{comparison.name}-rounds.csv": rounds_csv(whole, rows),
        **({"rates.csv": rates_csv(trials)} if trials else {}),
        "verdicts.md": verdicts_page(comparison, rows),
    }


def _is_finished(comparison: Comparison, case: Case, out: Path) -> bool:
    sweep = main_sweep(comparison, case, out)
    return sweep is not None and not unfinished(sweep.runs(), out / case.slug)


def _trials(comparison: Comparison, out: Path) -> list[Trial]:
    """The trials of the search; none where nothing is searched."""
    if not comparison.searches:
        return []
    return [
        trial
        for source in comparison.sources()
        for trial in read_trials(source, comparison.search(source), comparison.search_folder(source, out))
    ]
