"""Runs a comparison: for each data set the search of the rates, then its cases; taken up again where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fedfit.experiment.validate import validate
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.rate_search import best_rates, read_trials
from fedfit.sweeps.runner import Progress, other_recipes, run_sweep, unfinished
from fedfit.sweeps.sweep import Run, Sweep


def rates_found(comparison: Comparison, source: str, out: Path) -> dict[str, float] | None:
    """The best rate of each method on ``source``, or ``None`` while the search is not finished."""
    search, folder = comparison.search(source), comparison.search_folder(source, out)
    runs = search.runs(1)
    return None if unfinished(runs, folder) else best_rates(read_trials(source, runs, folder))


def run_comparison(comparison: Comparison, seeds: int, out: Path, *, force: bool = False) -> Iterator[Progress]:
    """Runs what is left, a data set at a time: the search on it, then its cases. Stop asking to stop, call again to go on.

    Yields as :func:`fedfit.sweeps.runner.run_sweep` does, counted over the search and the main runs together.

    Args:
        force: runs anew what is there with another recipe; what has the wanted one is kept.

    Raises:
        FedfitError: as ``run_sweep`` does. What can be known before the first run is told before it: all of the search, and
            the main runs of a data set that has been searched.
    """
    _check(comparison, seeds, out, force=force)
    count = _Count.of(comparison, seeds)
    for source in comparison.sources():
        search = comparison.search(source)
        yield from count.over(search, 1, comparison.search_folder(source, out), force=force)
        rates = rates_found(comparison, source, out)
        assert rates is not None, "a search that ran to its end is finished"
        for case in (case for case in comparison.cases if case.source == source):
            yield from count.over(comparison.main(case, rates), seeds, out / case.slug, force=force)


@dataclass
class _Count:
    """Where a sweep stands among all of them: the runs and rounds of those before it."""

    runs: int
    total: int
    runs_before: int = 0
    rounds_before: int = 0

    @classmethod
    def of(cls, comparison: Comparison, seeds: int) -> _Count:
        """Rounds do not depend on the rate, so the totals are known before the search."""
        lowest = _lowest(comparison)
        runs: list[Run] = []
        for source in comparison.sources():
            runs += comparison.search(source).runs(1)
        for case in comparison.cases:
            runs += comparison.main(case, lowest).runs(seeds)
        return cls(len(runs), _rounds(runs))

    def over(self, sweep: Sweep, seeds: int, folder: Path, *, force: bool) -> Iterator[Progress]:
        """The sweep's own progress, with what came before it added; ``name`` says which sweep it is."""
        runs = sweep.runs(seeds)
        with closing(run_sweep(sweep, seeds, folder, force=force)) as steps:  # type: ignore[type-var]
            for step in steps:
                yield replace(
                    step,
                    run=self.runs_before + step.run,
                    runs=self.runs,
                    name=f"{folder.name} {step.name}",
                    done=self.rounds_before + step.done,
                    total=self.total,
                )
        self.runs_before += len(runs)
        self.rounds_before += _rounds(runs)


def _rounds(runs: Sequence[Run]) -> int:
    """Round 0 of each included."""
    return sum(run.recipe.federation.rounds + 1 for run in runs)


def _lowest(comparison: Comparison) -> dict[str, float]:
    return {method.name: min(comparison.rates) for method in comparison.methods}


def _check(comparison: Comparison, seeds: int, out: Path, *, force: bool) -> None:
    """Refuses before the first run what would be refused hours later; but not a spread that leaves too few devices a sample."""
    for source in comparison.sources():
        other_recipes(comparison.search(source).runs(1), comparison.search_folder(source, out), force=force)
    for case in comparison.cases:
        rates = rates_found(comparison, case.source, out)
        main = comparison.main(case, rates or _lowest(comparison))
        if rates is not None:
            other_recipes(main.runs(seeds), out / case.slug, force=force)
        for run in main.runs(1):
            validate(run.recipe)
