"""Figures that compare several runs, one line per run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfit.reports.abscissa import BYTES, ENERGY, ROUNDS, TIME, Abscissa
from fedfit.reports.curves import curve
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, common_metric, display_names
from fedfit.reports.style import SINGLE_INCHES, WIDE_INCHES, blank, drawing, line_look, plain, save

MANY_RUNS = 4
"""With more runs than this the legend goes beside the figure."""


def overlay(runs: Sequence[RunData], folder: Path) -> list[Path]:
    """Draw ``comparisons`` into ``folder``, as PNG and SVG; return the paths. Skips figures for which no run has data."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with drawing():
        for name, draw in comparisons(runs).items():
            figure = draw(runs)
            if figure is not None:
                paths += save(figure, folder / name)
    return paths


def comparisons(runs: Sequence[RunData]) -> dict[str, Callable[[Sequence[RunData]], Any]]:
    """Name → draw function: the runs' common metric, and the loss on the same part, over rounds, bytes, time and energy."""
    first = Measure.of(common_metric(runs))
    losses = [found for found in map(Measure.of, runs[0].keys) if found.is_loss and found != first]
    loss = next((found for found in losses if (found.part, found.ending) == (first.part, first.ending)), None)
    shown = [first, *([] if loss is None else [loss])]
    return {
        **{f"compare_{measure.name}": partial(draw_comparison, measure=measure, over=ROUNDS) for measure in shown},
        "compare_bytes": partial(draw_comparison, measure=first, over=BYTES),
        **{f"compare_{measure.name}_time": partial(draw_comparison, measure=measure, over=TIME) for measure in shown},
        **{f"compare_{measure.name}_energy": partial(draw_comparison, measure=measure, over=ENERGY) for measure in shown},
    }


def draw_comparison(runs: Sequence[RunData], measure: Measure, over: Abscissa) -> Any:
    """Draw ``measure`` over the axis ``over``, one line per run; ``None`` if no run has this axis.

    A run that was not simulated appears only in the legend of simulated time and energy.
    """
    if all(over.series(run) is None for run in runs):
        return None
    figure, axes = blank(WIDE_INCHES if len(runs) > MANY_RUNS else SINGLE_INCHES)
    # Count every run, drawn or not, so that a run has the same colour in every figure of a comparison.
    for index, (run, name, x) in enumerate(zip(runs, display_names(runs), over.place(axes, runs), strict=True)):
        if x is None:
            axes.plot([], [], linestyle="none", label=f"{plain(name, 32)}: not simulated")
        else:
            places, values = curve(run, measure.key, x)
            y = [measure.factor * value for value in values]
            axes.plot(places, y, label=plain(name, 40), **line_look(index, len(places)))
    axes.set_ylabel(measure.axis)
    if len(runs) > MANY_RUNS:
        figure.legend(loc="outside right upper")
    else:
        axes.legend(loc="best")
    return figure
