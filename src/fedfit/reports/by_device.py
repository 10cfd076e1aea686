"""Figure of the scores on each device's own test rows: one bar per device, or the sorted scores of many devices."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fedfit.reports.labels import MAX_BARS, name_ticks, pool
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, number
from fedfit.reports.style import FAINT, PALETTE, WIDE_INCHES, blank


def draw_by_device(run: RunData) -> Any:
    """Draw a metric of each device and the mean, after the last evaluation; ``None`` if devices have no test rows.

    Of several models a device the one is drawn that it uses.
    """
    rows, measure = run.last_scores(), device_measure(run)
    if measure is None:
        return None
    values = measure.factor * np.array([number(row.get(measure.key)) for row in rows])
    figure, axes = blank((WIDE_INCHES[0], 3.4))
    if len(rows) <= MAX_BARS:
        axes.bar(np.arange(len(rows)), values, width=0.7, color=PALETTE[0])
        step = max(1, -(-len(rows) // 20))
        if not name_ticks(axes, run, [row["device"] for row in rows]):
            axes.set_xticks(np.arange(len(rows))[::step], [str(row["device"]) for row in rows[::step]])
            axes.set_xlabel("Device")
        axes.set_xlim(-0.6, max(len(rows), 3) - 0.4)
    else:
        ordered = pool(np.sort(values)[:, None])[:, 0]
        axes.stairs(ordered, np.linspace(0, len(rows), len(ordered) + 1), fill=True, color=PALETTE[0])
        axes.set_xlim(0, len(rows))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel(f"{len(rows):,} devices, ordered by their {measure.word}")
    if np.isfinite(values).any():
        mean = float(np.nanmean(values))
        unit = f" {measure.unit}" if measure.unit else ""
        axes.axhline(mean, color=FAINT, linewidth=1.2, linestyle="--", label=f"mean over devices, {mean:.4g}{unit}")
        axes.legend(loc="lower right", frameon=True, framealpha=0.85, edgecolor="none")
    axes.set_ylim(0, 100 if measure.is_share else None)
    axes.set_ylabel(measure.axis)
    return figure


def device_measure(run: RunData) -> Measure | None:
    """The metric to compare devices by: the headline metric on their own rows, else the first metric that they recorded."""
    rows = run.last_scores()
    if not rows:
        return None
    measures = [Measure.of(key) for key in rows[0] if Measure.of(key).part]
    name = Measure.of(run.headline).name
    like = [found for found in measures if found.name == name]
    return like[-1] if like else measures[0] if measures else None
