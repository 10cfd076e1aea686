"""Accuracy over bytes, a panel a case: the mean over the seeds with its spread, in the house style."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from fedfit.reports.style import FAINT, PALETTE, blank, bytes_scale, drawing, line_look, save
from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.comparison_rows import Outcome

_PANEL_INCHES = (4.8, 3.4)
_LEGEND_INCHES = 1.0
_BOUND_DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Of methods that send nothing, told from one another and from the lines."""


def write_comparison_figure(comparison: Comparison, outcomes: Sequence[Outcome], caption: str, folder: Path) -> list[Path]:
    """Draws ``outcomes`` into ``folder`` as ``<name>.png`` and ``.svg``; ``caption`` goes under the figure in small print."""
    cases = list(dict.fromkeys(outcome.case for outcome in outcomes))
    columns = min(2, len(cases))
    rows = -(-len(cases) // columns)
    size = (max(columns, 1.5) * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + _LEGEND_INCHES)
    with drawing():
        figure, axes = blank(size, nrows=rows, ncols=columns, squeeze=False)
        panels = list(axes.flat)
        divisor, unit = bytes_scale(max(outcome.sent_bytes[-1] for outcome in outcomes))
        for panel, case in zip(panels, cases, strict=False):
            _draw_case(comparison, [outcome for outcome in outcomes if outcome.case == case], case, panel, divisor)
            panel.set_xlabel(f"Sent since the start, up and down ({unit})")
        for panel in panels[len(cases) :]:
            panel.set_axis_off()
        for row in axes:
            row[0].set_ylabel("Test accuracy (%)")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
        figure.supxlabel(caption, fontsize=8, color=FAINT)
        return save(figure, folder / comparison.name)


def _draw_case(comparison: Comparison, outcomes: Sequence[Outcome], case: Case, panel: Any, divisor: float) -> None:
    """A method has its colour by its place among all, so that it is the same in every panel."""
    bounds = 0
    for index, method in enumerate(comparison.methods):
        rows = [outcome for outcome in outcomes if outcome.method == method.name]
        if rows and method.sends:
            _draw_curve(rows, method.name, index, panel, divisor)
        elif rows:
            mean = 100 * statistics.fmean(row.final_accuracy for row in rows)
            dash = _BOUND_DASHES[bounds % len(_BOUND_DASHES)]
            colour = PALETTE[index % len(PALETTE)]
            panel.axhline(mean, color=colour, linewidth=1.4, linestyle=dash, label=f"{method.name}, last round")
            bounds += 1
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # powers of ten would be set as formulas
    panel.set_title(case.label)


def _draw_curve(rows: Sequence[Outcome], label: str, index: int, panel: Any, divisor: float) -> None:
    """From round 1 on, since nothing was sent before and the axis is logarithmic; the band is the standard deviation."""
    x = [statistics.fmean(values) / divisor for values in zip(*(row.sent_bytes[1:] for row in rows), strict=True)]
    by_round = [[100 * value for value in values] for values in zip(*(row.accuracies[1:] for row in rows), strict=True)]
    mean = [statistics.fmean(values) for values in by_round]
    sd = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in by_round]
    look = line_look(index, len(x))
    panel.plot(x, mean, label=label, zorder=3, **look)
    low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
    panel.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
