"""Figure of each device's seconds and joules in the whole run, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from fedfit.reports.costs import CHARGE_WORDS, ledger
from fedfit.reports.files import CHARGE, ENERGY_PARTS, TIME_PARTS
from fedfit.reports.labels import MAX_BARS, pool
from fedfit.reports.read import RunData
from fedfit.reports.style import PART_COLOURS, WIDE_INCHES, blank
from fedfit.units import duration_scale, energy_scale

COLUMNS = 200
"""Most columns of the areas; with more, the borders between the parts look frayed."""

Table = npt.NDArray[np.float64]
"""``(devices, parts)``, in the unit of the axis."""


def draw_ledger(run: RunData) -> Any:
    """Draw stacked bars by device, or for many devices areas sorted by total; ``None`` if no device was charged."""
    charged = ledger(run)
    if charged is None:
        return None
    devices, values = charged
    figure, panels = blank(WIDE_INCHES, ncols=2)
    sides = (("s", TIME_PARTS, duration_scale, "Time"), ("j", ENERGY_PARTS, energy_scale, "Energy"))
    for axes, (suffix, parts, scale, title) in zip(panels, sides, strict=True):
        table = values[:, [CHARGE.index(f"{part}_{suffix}") for part in parts]]
        divisor, unit = scale(float(table.sum(axis=1).max()))
        if len(devices) <= MAX_BARS:
            _draw_bars(axes, devices, table / divisor, parts)
        else:
            _draw_areas(axes, table / divisor, parts, title.lower())
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"{title} in the run ({unit})")
        axes.set_title(f"{title}, counting {CHARGE_WORDS[run.deciding_charge]}")
    found = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [name for name in PART_COLOURS if name in found]
    figure.legend([found[name] for name in names], names, loc="outside upper right", ncols=len(names))
    return figure


def _draw_bars(axes: Any, devices: list[int], table: Table, parts: tuple[str, ...]) -> None:
    floor = np.zeros(len(devices))
    places = np.arange(len(devices))
    for part, heights in zip(parts, table.T, strict=True):
        look = {"color": PART_COLOURS[part], "edgecolor": "white", "linewidth": 0.5}
        axes.bar(places, heights, bottom=floor, width=0.7, label=part, **look)
        floor = floor + heights
    axes.set_xlim(-0.6, max(len(devices), 3) - 0.4)
    step = max(1, -(-len(devices) // 20))
    axes.set_xticks(places[::step], [str(device) for device in devices[::step]])
    axes.set_xlabel("Device")


def _draw_areas(axes: Any, table: Table, parts: tuple[str, ...], total_name: str) -> None:
    """Draw areas over the devices sorted by total, so that the devices which share a column have similar totals."""
    ordered = table[np.argsort(table.sum(axis=1), kind="stable")]
    pooled = pool(ordered, COLUMNS)
    edges = np.linspace(0, len(table), len(pooled) + 1)
    floor = np.zeros(len(pooled))
    for part, heights in zip(parts, pooled.T, strict=True):
        axes.stairs(floor + heights, edges, baseline=floor, fill=True, color=PART_COLOURS[part], label=part)
        floor = floor + heights
    axes.set_xlim(0, len(table))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel(f"{len(table):,} devices, ordered by their {total_name}")
