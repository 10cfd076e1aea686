"""From a comparison's finished run folders to rows, and to CSV files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from fedfit.errors import RunFolderError
from fedfit.reports.read import RunData, read_run
from fedfit.sweeps.collect import Cell, csv_text, total
from fedfit.sweeps.comparison import Case, Comparison, Method
from fedfit.sweeps.comparison_run import rates_found
from fedfit.sweeps.runner import RUNS_FOLDER, unfinished
from fedfit.sweeps.sweep import Run

MEASURES = (
    "final_accuracy",
    "final_macro_f1",
    "uplink_bytes",
    "downlink_bytes",
    "simulated_s",
    "simulated_j",
    "rounds_to_target",
    "seconds_to_target",
    "joules_to_target",
    "server_s",
    "wall_s",
    "refused",
)
"""What is averaged over the seeds."""


@dataclass(frozen=True)
class Outcome:
    """One run. Accuracies, F1 and the target are shares of 1; bytes, ``simulated_s``, ``simulated_j`` (of all devices),
    ``server_s`` (wall seconds of the rule's own work), ``wall_s`` and ``refused`` (updates) are totals of the run.

    What is ``_to_target`` runs to the end of the first round whose test accuracy is the target or above, and is ``None``
    where no round's is. ``None`` is also what the run does not have: bytes of a method that needs no exchange (whatever the
    simulation passed between its parts), seconds and joules without a plan, the server's seconds where none were recorded.
    ``accuracies`` and ``sent_bytes`` (up and down, since the start) begin with round 0.
    """

    case: Case
    method: str
    seed: int
    learning_rate: float
    final_accuracy: float
    final_macro_f1: float
    uplink_bytes: float | None
    downlink_bytes: float | None
    simulated_s: float | None
    simulated_j: float | None
    target: float
    rounds_to_target: int | None
    seconds_to_target: float | None
    joules_to_target: float | None
    server_s: float | None
    wall_s: float
    refused: float
    accuracies: tuple[float, ...]
    sent_bytes: tuple[float, ...]


@dataclass(frozen=True)
class Group:
    """A method in a case over its seeds: ``mean`` and ``sd`` by measure, over the seeds that have it (``sd`` with n − 1).

    ``reached`` is how many of the ``n`` seeds reached the target.
    """

    case: Case
    method: str
    learning_rate: float
    target: float
    n: int
    reached: int
    mean: dict[str, float | None]
    sd: dict[str, float | None]


def finished_cases(comparison: Comparison, seeds: int, out: Path) -> list[Case]:
    """The cases of which every run is finished as wanted."""
    return [case for case in comparison.cases if not _left(comparison, case, seeds, out)]


def collect_outcomes(comparison: Comparison, seeds: int, out: Path) -> list[Outcome]:
    """A row for every run: by case and method in the comparison's order, then by seed.

    Raises:
        RunFolderError: when a run is not there, not finished, or was run with another recipe.
    """
    outcomes: list[Outcome] = []
    for case in comparison.cases:
        left = _left(comparison, case, seeds, out)
        if left:
            remedy = f"`fedfit reproduce {comparison.name}` with the same options goes on with them"
            raise RunFolderError(f"{out}: {case.slug} is not finished as wanted, first {left}: {remedy}")
        runs = _runs(comparison, case, seeds, out)
        for method in comparison.methods:
            for run in sorted((run for run in runs if run.point.line == method.name), key=lambda run: run.seed):
                data = read_run(out / case.slug / RUNS_FOLDER / run.folder)
                outcomes.append(outcome_of(case, method, run.seed, data, comparison.targets[case.source]))
    return outcomes


def outcome_of(case: Case, method: Method, seed: int, data: RunData, target: float) -> Outcome:
    """The row of one run that has at least one round."""
    accuracies = tuple(data.series("test_accuracy"))
    reached = next((place for place, accuracy in enumerate(accuracies) if accuracy >= target), None)
    up, down = data.series("uplink_bytes"), data.series("downlink_bytes")
    sent = accumulate(u + d for u, d in zip(up, down, strict=True))
    return Outcome(
        case=case,
        method=method.name,
        seed=seed,
        learning_rate=data.recipe["training"]["learning_rate"],
        final_accuracy=accuracies[-1],
        final_macro_f1=data.series("test_macro_f1")[-1],
        uplink_bytes=sum(up) if method.sends else None,
        downlink_bytes=sum(down) if method.sends else None,
        simulated_s=total(data, "simulated_s"),
        simulated_j=total(data, "simulated_j"),
        target=target,
        rounds_to_target=None if reached is None else int(data.rounds[reached]["round"]),
        seconds_to_target=_until(data, "simulated_s", reached),
        joules_to_target=_until(data, "simulated_j", reached),
        server_s=total(data, "server_seconds"),
        wall_s=sum(data.series("seconds")),
        refused=sum(row.get("refused", 0) for row in data.rounds),
        accuracies=accuracies,
        sent_bytes=tuple(sent) if method.sends else (0.0,) * len(accuracies),
    )


def group_outcomes(outcomes: Sequence[Outcome]) -> list[Group]:
    """The rows of each method in each case put together, in the order of their first row."""
    found: dict[tuple[Case, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.case, outcome.method), []).append(outcome)
    return [_group(rows) for rows in found.values()]


def outcomes_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a run."""
    names = ("method", "seed", "learning_rate", "target", *MEASURES)
    lines = [[o.case.source, o.case.alpha, *(getattr(o, name) for name in names)] for o in outcomes]
    return csv_text(("data", "alpha", *names), lines)


def groups_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a method and case: mean and standard deviation over its n seeds."""
    names = [f"{measure}_{kind}" for measure in MEASURES for kind in ("mean", "sd")]
    lines: list[list[Cell]] = []
    for g in group_outcomes(outcomes):
        cells = [value for measure in MEASURES for value in (g.mean[measure], g.sd[measure])]
        lines.append([g.case.source, g.case.alpha, g.method, g.learning_rate, g.target, g.n, g.reached, *cells])
    return csv_text(("data", "alpha", "method", "learning_rate", "target", "n", "reached", *names), lines)


def curves_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a run and round; bytes up and down since the start."""
    lines: list[list[Cell]] = [
        [o.case.source, o.case.alpha, o.method, o.seed, number, accuracy, sent]
        for o in outcomes
        for number, (accuracy, sent) in enumerate(zip(o.accuracies, o.sent_bytes, strict=True))
    ]
    return csv_text(("data", "alpha", "method", "seed", "round", "test_accuracy", "sent_bytes"), lines)


def _runs(comparison: Comparison, case: Case, seeds: int, out: Path) -> list[Run]:
    rates = rates_found(comparison, case.source, out)
    return [] if rates is None else comparison.main(case, rates).runs(seeds)


def _left(comparison: Comparison, case: Case, seeds: int, out: Path) -> str | None:
    """The first folder that is not finished as wanted, or ``None``."""
    runs = _runs(comparison, case, seeds, out)
    if not runs:
        return str(comparison.search_folder(case.source, out))
    left = unfinished(runs, out / case.slug)
    return str(out / case.slug / RUNS_FOLDER / left[0].folder) if left else None


def _until(data: RunData, key: str, reached: int | None) -> float | None:
    """Sum of ``key`` up to the round at place ``reached``, included; round 0, in which nothing is simulated, has none."""
    if reached is None or total(data, key) is None:
        return None
    return sum(value for value in data.series(key)[: reached + 1] if not math.isnan(value))


def _group(rows: Sequence[Outcome]) -> Group:
    mean: dict[str, float | None] = {}
    sd: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [value for row in rows if (value := getattr(row, measure)) is not None]
        mean[measure] = statistics.fmean(values) if values else None
        sd[measure] = statistics.stdev(values) if len(values) > 1 else None
    first = rows[0]
    reached = sum(row.rounds_to_target is not None for row in rows)
    return Group(first.case, first.method, first.learning_rate, first.target, len(rows), reached, mean, sd)
