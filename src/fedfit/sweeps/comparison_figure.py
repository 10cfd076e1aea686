"""Figure of the metric over bytes, one panel per case: the mean over the seeds, and its spread after the last round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from fedfit.reports.style import FAINT, MARKERS, PALETTE, blank, bytes_scale, drawing, save
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.figure import dodged, mean_and_sd
from fedfit.sweeps.rows import Row

_PANEL_INCHES = (4.2, 3.0)
_LEGEND_INCHES = 1.2
_LETTER_INCHES = 0.056
"""The mean width of a letter in small print."""
_BOUND_DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Dashes of methods that send nothing, distinct from one another and from the curves."""

_DECADE = 10.0
_NEXT_TURN = 3
"""Markers to pass over when the colours begin anew, so that no two methods have colour and marker in common."""
_LAST_ROUND = ", last round"

_ALIKE, _STEP_ASIDE, _FARTHEST, _AXIS = 0.1, 0.022, 0.03, (1.0, 100.0)
"""Methods whose bytes differ by a smaller share than ``_ALIKE`` have their bars side by side around their place, each moved by
``_STEP_ASIDE`` of the axis from the next; by less where one would be moved by more than ``_FARTHEST``, 15 % of its bytes: far
aside would look like bytes. ``_AXIS`` is a typical range of the axis, two decades."""


def write_comparison_figure(comparison: Comparison, rows: Sequence[Row], caption: str, folder: Path) -> list[Path]:
    """Draws ``rows`` into ``folder`` as ``<name>.png`` and ``.svg``, with ``caption`` in small print; returns the paths."""
    cases = list(dict.fromkeys(row.panel for row in rows))
    across = min(2, len(cases))
    down = -(-len(cases) // across)
    size = (max(across, 1.5) * _PANEL_INCHES[0], down * _PANEL_INCHES[1] + _LEGEND_INCHES)
    with drawing():
        figure, axes = blank(size, nrows=down, ncols=across, squeeze=False)
        panels = list(axes.flat)
        divisor, unit = bytes_scale(max(row.sent_bytes[-1] for row in rows))
        for panel, case in zip(panels, cases, strict=False):
            _draw_case(comparison, [row for row in rows if row.panel == case], panel, divisor)
            panel.set_title(case)
        for panel in panels[len(cases) :]:
            panel.set_axis_off()
        for panel in axes[-1]:
            panel.set_xlabel(f"Sent, up and down ({unit})")
        for panels_beside in axes:
            panels_beside[0].set_ylabel(comparison.metric.label)
        _draw_legend(comparison, figure, panels[0])
        words = f"bars, side by side: s.d. after the last round. {caption}"
        figure.supxlabel(fill(words, int(size[0] / _LETTER_INCHES)), fontsize=8, color=FAINT)
        return save(figure, folder / comparison.name)


def _draw_legend(comparison: Comparison, figure: Any, panel: Any) -> None:
    """Draws the legend in the order of the methods, without error bars."""
    handles, names = panel.get_legend_handles_labels()
    places = [method.name for method in comparison.methods]
    shown = sorted(zip(handles, names, strict=True), key=lambda pair: places.index(pair[1].removesuffix(_LAST_ROUND)))
    marks = [handle[0] if isinstance(handle, tuple) else handle for handle, _ in shown]
    names = [name for _, name in shown]
    figure.legend(marks, names, loc="outside upper left", ncols=min(3, len(names)), columnspacing=1.2)


def _draw_case(comparison: Comparison, rows: Sequence[Row], panel: Any, divisor: float) -> None:
    """Draws one case; a method's colour depends on its place in the comparison, so that it is the same in every panel."""
    bounds, asides = 0, _asides(comparison, rows)
    for index, method in enumerate(comparison.methods):
        found, colour = [row for row in rows if row.line == method.name], PALETTE[index % len(PALETTE)]
        if found and method.sends:
            _draw_curve(found, method.name, index, asides[method.name], comparison.metric.factor, panel, divisor)
        elif found:
            mean = comparison.metric.factor * statistics.fmean(row.final for row in found)
            dash = _BOUND_DASHES[bounds % len(_BOUND_DASHES)]
            panel.axhline(mean, color=colour, linewidth=1.4, linestyle=dash, label=f"{method.name}{_LAST_ROUND}")
            bounds += 1
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    if high < _DECADE * low:  # on a shorter axis a step aside would look like bytes
        middle = math.sqrt(low * high)
        panel.set_xlim(middle / math.sqrt(_DECADE), middle * math.sqrt(_DECADE))
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the default sets powers of ten as formulas


def _asides(comparison: Comparison, rows: Sequence[Row]) -> dict[str, float]:
    """Method → how far its bar is moved to the right, as a share of the axis."""
    groups: list[tuple[float, list[str]]] = []
    for method in (method for method in comparison.methods if method.sends):
        sent = [row.sent_bytes[-1] for row in rows if row.line == method.name]
        if sent:
            end = statistics.fmean(sent)
            alike = next((names for first, names in groups if abs(end / first - 1) < _ALIKE), None)
            if alike is None:
                groups.append((end, [method.name]))
            else:
                alike.append(method.name)
    asides: dict[str, float] = {}
    for _, names in groups:
        step = min(_STEP_ASIDE, 2 * _FARTHEST / max(1, len(names) - 1))
        asides |= {name: step * (place - (len(names) - 1) / 2) for place, name in enumerate(names)}
    return asides


def _draw_curve(rows: Sequence[Row], label: str, index: int, aside: float, factor: float, panel: Any, divisor: float) -> None:
    """Draws a method from round 1 on, over the rounds that were evaluated: nothing was sent before, and the axis is
    logarithmic.

    Only the last round has a marker and an error bar, ``aside`` of the axis to the right. Markers and bands of every round
    would hide one another.
    """
    measured = [place for place in range(1, len(rows[0].curve)) if not any(math.isnan(row.curve[place]) for row in rows)]
    x, _ = mean_and_sd([[row.sent_bytes[place] for place in measured] for row in rows], 1 / divisor)
    mean, sd = mean_and_sd([[row.curve[place] for place in measured] for row in rows], factor)
    colour = PALETTE[index % len(PALETTE)]
    panel.plot(x, mean, color=colour, linewidth=1.3, alpha=0.75, zorder=2)
    panel.errorbar(
        dodged(x[-1:], 1.0, aside, log=True, low=_AXIS[0], high=_AXIS[1]),
        mean[-1:],
        yerr=sd[-1:] if sd[-1] else None,
        color=colour,
        marker=MARKERS[(index + _NEXT_TURN * (index // len(PALETTE))) % len(MARKERS)],
        markersize=7,
        markeredgewidth=0,
        elinewidth=1.4,
        linewidth=1.3,
        label=label,
        zorder=3,
    )
