"""Figure of the metric over the skew of the spread: a panel a data set, a line a method, over the Dirichlet concentration α."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.ticker import FixedLocator, NullLocator

from fedfit.reports.style import FAINT, blank, drawing, line_look, save
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.describe import DATA_NAMES
from fedfit.sweeps.figure import dodged
from fedfit.sweeps.rows import Row

_LEAST = 3
"""Concentrations that make a curve."""

_PANEL_INCHES = (6.4, 4.0)
_STEP_ASIDE = 0.008
"""Between the points of two methods at one α, as a share of the axis, so that each error bar can be read."""


def skewed_sources(comparison: Comparison) -> list[str]:
    """The data sets that are compared at several degrees of skew."""
    alphas = {source: [c.alpha for c in comparison.cases if c.source == source] for source in comparison.sources()}
    return [source for source, found in alphas.items() if None not in found and len(set(found)) >= _LEAST]


def write_skew_figure(comparison: Comparison, rows: Sequence[Row], caption: str, folder: Path) -> list[Path]:
    """Draws ``rows`` into ``folder`` as ``<name>-by-skew.png`` and ``.svg``; returns the paths: none, where no data set is
    compared at several degrees of skew.
    """
    sources = skewed_sources(comparison)
    if not sources:
        return []
    with drawing():
        size = (_PANEL_INCHES[0] * len(sources), _PANEL_INCHES[1])
        figure, axes = blank(size, ncols=len(sources), squeeze=False)
        for panel, source in zip(axes[0], sources, strict=True):
            _draw(comparison, [row for row in rows if dict(row.columns)["data"] == source], panel)
            panel.set_title(DATA_NAMES.get(source, source))
            panel.set_xlabel("Dirichlet concentration α, from skewed to even")
        axes[0][0].set_ylabel(comparison.metric.label)
        handles, names = axes[0][0].get_legend_handles_labels()
        figure.legend([handle[0] for handle in handles], names, loc="outside right upper", fontsize=8)
        figure.supxlabel(fill(f"bars, side by side: s.d. over the seeds. {caption}", 100), fontsize=8, color=FAINT)
        return save(figure, folder / f"{comparison.name}-by-skew")


def _draw(comparison: Comparison, rows: Sequence[Row], panel: Any) -> None:
    """Draws the mean over the seeds after the last round, and its spread."""
    factor = comparison.metric.factor
    alphas = sorted({float(dict(row.columns)["alpha"]) for row in rows})  # type: ignore[arg-type]
    for index, method in enumerate(comparison.methods):
        finals = [
            [factor * row.final for row in rows if row.line == method.name and dict(row.columns)["alpha"] == alpha]
            for alpha in alphas
        ]
        if not all(finals):
            continue
        aside = index - (len(comparison.methods) - 1) / 2
        x = dodged(alphas, aside, _STEP_ASIDE, log=True, low=alphas[0], high=alphas[-1])
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in finals]
        mean = [statistics.fmean(values) for values in finals]
        panel.errorbar(x, mean, yerr=spread, label=method.name, elinewidth=0.8, linewidth=1.2, **line_look(index, len(x)))
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(alphas))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
