"""Reads finished run folders into rows, the common input of figures, comparisons and grids.

A row depends on the run folder alone, so that every number can be computed again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from fedfit.errors import RunFolderError
from fedfit.reports.read import RunData, read_run
from fedfit.sweeps.metric import OWN, names_in
from fedfit.sweeps.run_folders import RUNS_FOLDER, unfinished
from fedfit.sweeps.sweep import Columns, Point, Sweep


@dataclass(frozen=True)
class Row:
    """One run. ``values`` are its measures by name; ``None`` marks a measure that the run lacks.

    ``columns`` and ``facts`` stand before and after the seed in tables; ``line``, ``x`` and ``panel`` place it on a figure.
    ``curve`` is the sweep's metric and ``sent_bytes`` the bytes up and down since the start, both from round 0 on, the
    untrained model. ``chance`` is 1 over the number of classes, ``None`` without classes.

    Measures: ``final_<metric>`` for every metric on test rows and ``untrained_<metric>``; ``mean_rank`` over the rounds that
    have a common rank; totals over the rounds of ``simulated_s``, ``simulated_j`` (of all devices), ``uplink_bytes``,
    ``downlink_bytes``, ``wall_s``, ``server_s`` (wall seconds of the rule's own work) and ``refused`` (updates). The measures
    ``_to_target`` count to the end of the first round at the target or better, and are ``None`` if no round reached it.
    """

    columns: Columns
    seed: int
    facts: Columns
    line: str
    x: float | None
    panel: str
    values: Mapping[str, float | None]
    curve: tuple[float, ...]
    sent_bytes: tuple[float, ...]
    chance: float | None
    exchanges: bool = True

    @property
    def final(self) -> float:
        """The metric after the last round."""
        return self.curve[-1]

    @property
    def untrained(self) -> float:
        """The metric before the first round."""
        return self.curve[0]


@dataclass(frozen=True)
class Summary:
    """One point, summarised over its ``n`` seeds: ``mean`` and ``sd`` by measure, over the seeds that have the measure.

    ``sd`` is the sample standard deviation (n − 1), ``None`` for fewer than two values. ``reached`` is the number of seeds that
    reached the target.
    """

    columns: Columns
    facts: Columns
    line: str
    x: float | None
    panel: str
    n: int
    reached: int
    mean: dict[str, float | None]
    sd: dict[str, float | None]


def collect(sweep: Sweep, out: Path) -> list[Row]:
    """A row for every run, sorted by point in the sweep's order, then by seed.

    Raises:
        RunFolderError: if a run is missing, unfinished or has another recipe.
    """
    runs = sweep.runs()
    left = unfinished(runs, out)
    if left:
        first = out / RUNS_FOLDER / left[0].folder
        remedy = f"`{sweep.command}` with the same options continues them"
        raise RunFolderError(f"{len(left)} of {len(runs)} runs are not finished with this recipe, the first {first}: {remedy}")
    order = {point: place for place, point in enumerate(sweep.points)}
    runs.sort(key=lambda run: (order[run.point], run.seed))
    return [row_of(sweep, run.point, run.seed, read_run(out / RUNS_FOLDER / run.folder)) for run in runs]


def row_of(sweep: Sweep, point: Point, seed: int, data: RunData) -> Row:
    """The row of one run with at least one round."""
    curve = tuple(sweep.metric.series(data))
    sent = accumulate(up + down for up, down in zip(data.series("uplink_bytes"), data.series("downlink_bytes"), strict=True))
    # A task without classes has no chance level; folders of older versions have no task.json.
    labels = data.task.get("labels", []) if data.task else data.partition["labels"] if data.partition else []
    return Row(
        columns=sweep.columns(point),
        seed=seed,
        facts=point.facts,
        line=point.line,
        x=point.x,
        panel=point.panel,
        values=_metric_values(sweep, data) | _totals(point, data) | _to_target(sweep, data),
        curve=curve,
        sent_bytes=tuple(sent) if point.exchanges else (0.0,) * len(curve),
        chance=1 / len(labels) if labels else None,
        exchanges=point.exchanges,
    )


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """A summary of each point's rows, in the order of the points' first rows."""
    points: dict[Columns, list[Row]] = {}
    for row in rows:
        points.setdefault(row.columns, []).append(row)
    return [_summary(group) for group in points.values()]


def _metric_values(sweep: Sweep, data: RunData) -> dict[str, float | None]:
    last, name = data.rounds[-1], sweep.metric.name
    part = OWN if sweep.metric.part == OWN else "test"
    final = {f"final_{other}": replace(sweep.metric, name=other, part=part).of(last) for other in names_in(last, part)}
    curve = sweep.metric.series(data)
    ranks = _without_nan(data.series("rank"))
    return final | {
        f"final_{name}": curve[-1],
        f"untrained_{name}": curve[0],
        "mean_rank": statistics.fmean(ranks) if ranks else None,
    }


def _totals(point: Point, data: RunData) -> dict[str, float | None]:
    return {
        "simulated_s": _total(data, "simulated_s"),
        "simulated_j": _total(data, "simulated_j"),
        "uplink_bytes": sum(data.series("uplink_bytes")) if point.exchanges else None,
        "downlink_bytes": sum(data.series("downlink_bytes")) if point.exchanges else None,
        "server_s": _total(data, "server_seconds"),
        "wall_s": sum(data.series("seconds")),
        "refused": sum(line.get("refused", 0) for line in data.rounds),
    }


def _to_target(sweep: Sweep, data: RunData) -> dict[str, float | None]:
    """The measures ``_to_target``; the validation part decides if the run has one."""
    target, values = sweep.target, sweep.metric.deciding(data).series(data)
    within = (place for place, value in enumerate(values) if target is not None and sweep.metric.gain(value, target) >= 0)
    reached = next(within, None)
    return {
        "rounds_to_target": None if reached is None else int(data.rounds[reached]["round"]),
        "seconds_to_target": _sum_until(data, "simulated_s", reached),
        "joules_to_target": _sum_until(data, "simulated_j", reached),
    }


def _sum_until(data: RunData, key: str, reached: int | None) -> float | None:
    """Sum of ``key`` up to and including the round at place ``reached``; round 0 is not simulated and adds nothing."""
    if reached is None or _total(data, key) is None:
        return None
    return sum(_without_nan(data.series(key)[: reached + 1]))


def _total(data: RunData, key: str) -> float | None:
    """Sum of ``key`` over the rounds that have it; ``None`` if no round has it."""
    values = _without_nan(data.series(key))
    return sum(values) if values else None


def _summary(group: Sequence[Row]) -> Summary:
    mean: dict[str, float | None] = {}
    sd: dict[str, float | None] = {}
    for measure in group[0].values:
        values = [value for row in group if (value := row.values.get(measure)) is not None]
        mean[measure] = statistics.fmean(values) if values else None
        sd[measure] = statistics.stdev(values) if len(values) > 1 else None
    first = group[0]
    reached = sum(row.values.get("rounds_to_target") is not None for row in group)
    return Summary(first.columns, first.facts, first.line, first.x, first.panel, len(group), reached, mean, sd)


def _without_nan(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]
