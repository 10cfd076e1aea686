"""Chooses the learning rate of each method: the rate with the best value of the metric in the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedfit.reports.read import read_run
from fedfit.sweeps.csv_files import csv_text
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.run_folders import RUNS_FOLDER
from fedfit.sweeps.sweep import Sweep


@dataclass(frozen=True)
class Trial:
    """One run of the search. ``value`` is the last round's of ``metric``, NaN if it was not measured.

    ``metric`` names the rows measured: the validation part if the run has one, else the test rows.
    """

    source: str
    method: str
    rate: float
    value: float
    metric: Metric = field(default_factory=Metric)


def read_trials(source: str, search: Sweep, folder: Path) -> list[Trial]:
    """A trial for each run of ``search``, which must be finished in ``folder``; sorted by method, then by rate.

    The lines of ``search`` are the methods, and its x is the rate.
    """
    trials = []
    for run in search.runs():
        assert run.point.x is not None
        data = read_run(folder / RUNS_FOLDER / run.folder)
        metric = search.metric.deciding(data)
        trials.append(Trial(source, run.point.line, run.point.x, metric.series(data)[-1], metric))
    order = list(dict.fromkeys(trial.method for trial in trials))
    return sorted(trials, key=lambda trial: (order.index(trial.method), trial.rate))


def best_rates(trials: Sequence[Trial]) -> dict[str, float]:
    """Method → the rate of the best value, the lowest of equally good rates. ``trials`` are of one data set."""
    best: dict[str, Trial] = {}
    for trial in trials:
        held = best.get(trial.method)
        if held is None or _merit(trial) > _merit(held):
            best[trial.method] = trial
    return {method: trial.rate for method, trial in best.items()}


def rates_csv(trials: Sequence[Trial]) -> str:
    """CSV text with one line per trial; ``chosen`` is 1 for the rate chosen, else 0."""
    lines = [[t.source, t.method, t.rate, t.value, int(chosen)] for t, chosen in with_choice(trials)]
    return csv_text(("data", "method", "learning_rate", f"final_{trials[0].metric.name}", "chosen"), lines)


def with_choice(trials: Sequence[Trial]) -> list[tuple[Trial, bool]]:
    """Each trial, and whether its rate was chosen for its method and data set."""
    sources = dict.fromkeys(trial.source for trial in trials)
    chosen = {source: best_rates([trial for trial in trials if trial.source == source]) for source in sources}
    return [(trial, chosen[trial.source][trial.method] == trial.rate) for trial in trials]


def _merit(trial: Trial) -> tuple[float, float]:
    return (-math.inf if math.isnan(trial.value) else trial.metric.gain(trial.value, 0), -trial.rate)
