"""A sweep's figure: the mean over the seeds with its spread, in the house style."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedfit.reports.style import FAINT, SINGLE_INCHES, WIDE_INCHES, blank, drawing, line_look, round_axis, save
from fedfit.sweeps.collect import Row, summarise
from fedfit.sweeps.sweep import Sweep


def write_figure(sweep: Sweep, rows: Sequence[Row], caption: str, folder: Path) -> list[Path]:
    """Draws ``rows`` into ``folder`` as ``<name>.png`` and ``.svg``; ``caption`` goes under the figure in small print."""
    with drawing():
        over_rounds = all(point.x is None for point in sweep.points)
        figure = _over_rounds(sweep, rows) if over_rounds else _over_x(sweep, rows)
        figure.supxlabel(f"{caption}\nuntrained model: {_untrained(rows):.1f} %", fontsize=8, color=FAINT)
        return save(figure, folder / sweep.name)


def _over_x(sweep: Sweep, rows: Sequence[Row]) -> Any:
    """Final accuracy over x; bars are the standard deviation over the seeds."""
    figure, axes = blank(SINGLE_INCHES)
    summaries = summarise(rows)
    for index, line in enumerate(dict.fromkeys(point.line for point in summaries)):
        points = [point for point in summaries if point.line == line and point.x is not None]
        x, y = [point.x for point in points], [100 * (point.mean["final_accuracy"] or 0) for point in points]
        spread = [100 * (point.sd["final_accuracy"] or 0) for point in points]
        bars = {"yerr": spread, "elinewidth": 1.2} if any(spread) else {}
        axes.errorbar(x, y, label=line, zorder=3, **bars, **line_look(index, len(x)))
    if sweep.axis.log2:
        axes.set_xscale("log", base=2)
    ticks = sorted({point.x for point in summaries if point.x is not None})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(sweep.axis.label)
    _draw_untrained(rows, axes)
    _finish(sweep, axes)
    return figure


def _over_rounds(sweep: Sweep, rows: Sequence[Row]) -> Any:
    """Accuracy over rounds, a line a point: whole, and enlarged from round 1 on, where lines lie close to one another."""
    figure, (whole, enlarged) = blank(WIDE_INCHES, ncols=2)
    _draw_curves(sweep, rows, whole, 0)
    whole.axhline(_untrained(rows), color=FAINT, linewidth=1.2, linestyle=":", label="untrained")
    _finish(sweep, whole)
    _draw_curves(sweep, rows, enlarged, 1)
    enlarged.set_title("From round 1 on, enlarged")
    return figure


def _draw_curves(sweep: Sweep, rows: Sequence[Row], axes: Any, first: int) -> None:
    """From round ``first``; the band is the standard deviation over the seeds."""
    for index, point in enumerate(sweep.points):
        curves = [row.accuracies[first:] for row in rows if row.line == point.line]
        by_round = [[100 * value for value in values] for values in zip(*curves, strict=True)]
        rounds = range(first, first + len(by_round))
        mean = [statistics.fmean(values) for values in by_round]
        sd = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in by_round]
        look = line_look(index, len(mean))
        axes.plot(rounds, mean, label=point.line, zorder=3, **look)
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        axes.fill_between(rounds, low, high, color=look["color"], alpha=0.15, linewidth=0)
    round_axis(axes, range(first, max(len(row.accuracies) for row in rows)), sweep.axis.label)


def _draw_untrained(rows: Sequence[Row], axes: Any) -> None:
    """As a line, unless it lies so far below that it would press the others together; the caption has it anyway."""
    low, high = axes.get_ylim()
    if _untrained(rows) > low - (high - low):
        axes.axhline(_untrained(rows), color=FAINT, linewidth=1.2, linestyle=":", label="untrained")


def _finish(sweep: Sweep, axes: Any) -> None:
    axes.set_ylabel("Test accuracy (%)")
    axes.set_title(sweep.title)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:  # beside the title, where no error bar reaches
        axes.figure.legend(handles, names, loc="outside upper right", ncols=len(names))


def _untrained(rows: Sequence[Row]) -> float:
    """Mean over all runs, in percent."""
    return 100 * statistics.fmean(row.untrained_accuracy for row in rows)
