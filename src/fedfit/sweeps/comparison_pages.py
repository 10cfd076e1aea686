"""Everything that is written of a comparison from its finished runs."""

from __future__ import annotations

from pathlib import Path

from fedfit.atomic import write_atomic
from fedfit.errors import RunFolderError
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.comparison_figure import write_comparison_figure
from fedfit.sweeps.comparison_rows import collect_outcomes, curves_csv, finished_cases, groups_csv, outcomes_csv
from fedfit.sweeps.comparison_table import table_page
from fedfit.sweeps.comparison_verdicts import verdicts_page
from fedfit.sweeps.describe import caption, settings_text
from fedfit.sweeps.rate_search import Trial, rates_csv, read_trials


def finished_part(comparison: Comparison, seeds: int, out: Path) -> Comparison:
    """``comparison`` with only those cases of which every run is finished.

    Raises:
        RunFolderError: when none is.
    """
    cases = finished_cases(comparison, seeds, out)
    if not cases:
        raise RunFolderError(f"{out}: no case is finished yet; `fedfit reproduce {comparison.name}` goes on with them")
    return comparison.only(cases)


def write_comparison(comparison: Comparison, seeds: int, out: Path) -> list[Path]:
    """Writes figure, tables, settings and verdicts from the finished runs in ``out``; runs nothing. Returns the paths.

    Raises:
        FedfitError: when a run is not finished as wanted, or ``out`` cannot be written.
    """
    outcomes = collect_outcomes(comparison, seeds, out)
    trials = _trials(comparison, out)
    whole = comparison.whole()
    pages = {
        "table.md": table_page(comparison, outcomes, trials),
        f"{comparison.name}.csv": outcomes_csv(outcomes),
        f"{comparison.name}-summary.csv": groups_csv(outcomes),
        f"{comparison.name}-rounds.csv": curves_csv(outcomes),
        "rates.csv": rates_csv(trials),
        "settings.md": settings_text(whole, seeds),
        "verdicts.md": verdicts_page(comparison, outcomes),
    }
    try:
        for name, text in pages.items():
            write_atomic(out / name, text.encode())
        figure = write_comparison_figure(comparison, outcomes, caption(whole, seeds), out)
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror or error}): free space or make it writable") from error
    return [*figure, *(out / name for name in pages)]


def _trials(comparison: Comparison, out: Path) -> list[Trial]:
    return [
        trial
        for source in comparison.sources()
        for trial in read_trials(source, comparison.search(source).runs(1), comparison.search_folder(source, out))
    ]
