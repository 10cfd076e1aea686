"""A comparison as stages for the runner: for each data set the search for the learning rates, then the cases."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.rate_search import best_rates, read_trials
from fedfit.sweeps.run_folders import unfinished
from fedfit.sweeps.runner import Stage
from fedfit.sweeps.sweep import Sweep


def rates_found(comparison: Comparison, source: str, out: Path) -> dict[str, float] | None:
    """The best rate of each method on ``source``, or ``None`` while the search is unfinished."""
    if not comparison.searches:
        return comparison.lowest_rates
    search, folder = comparison.search(source), comparison.search_folder(source, out)
    if unfinished(search.runs(), folder):
        return None
    return comparison.lowest_rates | best_rates(read_trials(source, search, folder))


def main_sweep(comparison: Comparison, case: Case, out: Path) -> Sweep | None:
    """The main sweep of ``case`` at the rates that the search found, or ``None`` while the search is unfinished."""
    rates = rates_found(comparison, case.source, out)
    return None if rates is None else comparison.main(case, rates)


def comparison_stages(comparison: Comparison, out: Path) -> Iterator[Stage]:
    """Yields the stages of one data set after another: the search, then the cases.

    The number of rounds does not depend on the rate, so the main runs can be counted and checked before the search, at the
    lowest rate.
    """
    for source in comparison.sources():
        if comparison.searches:
            yield Stage.of(comparison.search(source), comparison.search_folder(source, out), source)
        for case in (case for case in comparison.cases if case.source == source):
            sweep = partial(main_sweep, comparison, case, out)
            yield Stage(out / case.slug, comparison.main(case, comparison.lowest_rates), sweep, case.slug)
