"""The figure of a sweep: the mean over the seeds with its spread, in the style of the reports."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfit.reports.style import FAINT, SINGLE_INCHES, WIDE_INCHES, blank, drawing, line_look, round_axis, save
from fedfit.sweeps.rows import Row, summarise
from fedfit.sweeps.sweep import Sweep

_LETTERS_PER_INCH = 11
"""Letters of a legend's text per inch, roughly; a legend's line with its gaps is as wide as six letters."""

_STEP_ASIDE = 0.012
"""Distance between the points of different lines at one x, as a share of the axis, so that each error bar can be read."""


def write_figure(sweep: Sweep, rows: Sequence[Row], caption: str, folder: Path) -> list[Path]:
    """Draws ``rows`` into ``folder`` as ``<name>.png`` and ``.svg``, with ``caption`` in small print; returns the paths."""
    with drawing():
        over_rounds = all(row.x is None for row in rows)
        figure = _over_rounds(sweep, rows) if over_rounds else _over_x(sweep, rows)
        untrained = sweep.metric.shown(_untrained(rows))
        figure.supxlabel(f"{caption}\nuntrained model: {untrained}", fontsize=8, color=FAINT)
        return save(figure, folder / sweep.name)


def mean_and_sd(curves: Sequence[Sequence[float]], factor: float) -> tuple[list[float], list[float]]:
    """Mean and standard deviation over ``curves`` of equal length, round by round, times ``factor``; 0 for a single curve."""
    places = [[factor * value for value in values] for values in zip(*curves, strict=True)]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in places]
    return [statistics.fmean(values) for values in places], spread


def dodged(xs: Sequence[float], place: float, step: float, *, log: bool, low: float, high: float) -> list[float]:
    """``xs`` moved by ``place`` steps of equal length on paper; ``step`` is a share of the axis from ``low`` to ``high``."""
    if log:
        return [x * (high / low) ** (place * step) for x in xs]
    return [x + (high - low) * place * step for x in xs]


def _over_x(sweep: Sweep, rows: Sequence[Row]) -> Any:
    """Draws the metric after the last round over x; error bars are the standard deviation over the seeds."""
    figure, axes = blank(SINGLE_INCHES)
    summaries = [point for point in summarise(rows) if point.x is not None]
    measure, factor = f"final_{sweep.metric.name}", sweep.metric.factor
    lines, ticks = list(dict.fromkeys(p.line for p in summaries)), sorted({p.x for p in summaries if p.x is not None})
    for index, line in enumerate(lines):
        points = [point for point in summaries if point.line == line]
        spread = [factor * (point.sd[measure] or 0) for point in points]
        bars = {"yerr": spread, "elinewidth": 1.2} if any(spread) else {}
        place = index - (len(lines) - 1) / 2 if bars else 0.0
        x = dodged(
            [p.x for p in points if p.x is not None], place, _STEP_ASIDE, log=sweep.axis.log2, low=ticks[0], high=ticks[-1]
        )
        y = [factor * (point.mean[measure] or 0) for point in points]
        axes.errorbar(x, y, label=line, zorder=3, **bars, **line_look(index, len(x)))
    if sweep.axis.log2:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(sweep.axis.label)
    _draw_untrained(sweep, rows, axes)
    _add_labels(sweep, axes)
    return figure


def _over_rounds(sweep: Sweep, rows: Sequence[Row]) -> Any:
    """Draws the metric over rounds, a line per point, in two panels: all rounds, and enlarged from round 1 on."""
    figure, (whole, enlarged) = blank(WIDE_INCHES, ncols=2)
    _draw_curves(sweep, rows, whole, 0)
    whole.axhline(sweep.metric.factor * _untrained(rows), color=FAINT, linewidth=1.2, linestyle=":", label="untrained")
    _add_labels(sweep, whole)
    _draw_curves(sweep, rows, enlarged, 1)
    enlarged.set_title("From round 1 on, enlarged")
    return figure


def _draw_curves(sweep: Sweep, rows: Sequence[Row], axes: Any, first: int) -> None:
    """Draws the means from round ``first`` on; the band is the standard deviation over the seeds.

    The line of a point ends with its shortest run, which may have stopped at its target: a mean over fewer seeds would jump.
    """
    for index, line in enumerate(dict.fromkeys(row.line for row in rows)):
        curves = [row.curve for row in rows if row.line == line]
        shortest = min(map(len, curves))
        mean, sd = mean_and_sd([curve[first:shortest] for curve in curves], sweep.metric.factor)
        rounds = range(first, first + len(mean))
        look = line_look(index, len(mean))
        axes.plot(rounds, mean, label=line, zorder=3, **look)
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        axes.fill_between(rounds, low, high, color=look["color"], alpha=0.15, linewidth=0)
    round_axis(axes, range(first, max(len(row.curve) for row in rows)), sweep.axis.label)


def _draw_untrained(sweep: Sweep, rows: Sequence[Row], axes: Any) -> None:
    """Draws the untrained model as a line, unless it is so far off that it would compress the others; the caption states it."""
    low, high = axes.get_ylim()
    value = sweep.metric.factor * _untrained(rows)
    if low - (high - low) < value < high + (high - low):
        axes.axhline(value, color=FAINT, linewidth=1.2, linestyle=":", label="untrained")


def _add_labels(sweep: Sweep, axes: Any) -> None:
    axes.set_ylabel(sweep.metric.label)
    axes.set_title(sweep.title)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:  # beside the title, where no error bar reaches
        letters = _LETTERS_PER_INCH * axes.figure.get_size_inches()[0]
        columns = max(1, min(len(names), int(letters / (max(map(len, names)) + 6))))
        axes.figure.legend(handles, names, loc="outside upper right", ncols=columns)


def _untrained(rows: Sequence[Row]) -> float:
    """The untrained model's metric, as the mean over all runs."""
    return statistics.fmean(row.untrained for row in rows)
