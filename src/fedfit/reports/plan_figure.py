"""Figure of a plan's ranks: one bar per device for a small fleet, a histogram for a large one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedfit.reports.plan_summary import Ranks, Words, highest_ranks, no_devices_text
from fedfit.reports.style import INK, WIDE_INCHES, binding_colour, binding_label, binding_order, blank, drawing, plain, save

PLAN_FIGURE = "plan"
MAX_BARS = 60
"""A fleet of more devices than this is drawn as a histogram."""
LEVEL_NAMES = 12
"""With more bars than this, the names of the devices are rotated by 90°."""
MAX_BINS = 80


def write_plan_figure(plan: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``plan``, the JSON of ``fedfit plan``, into ``folder`` as PNG and SVG; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with drawing():
        return save(draw_plan(plan), folder / PLAN_FIGURE)


def draw_plan(plan: Mapping[str, Any]) -> Any:
    """Draw each device's highest rank, coloured by the limit that stops the next one, and the common rank as a line."""
    figure, axes = blank(WIDE_INCHES)
    ranks, words = highest_ranks(plan)
    axes.set_title(_title(plan))
    if len(ranks) == 0:
        axes.text(0.5, 0.5, no_devices_text(plan).capitalize(), ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    few = len(ranks) <= MAX_BARS
    if few:
        _draw_bars(axes, ranks, words, [plain(device["id"], 16) for device in plan["devices"]])
    else:
        _draw_histogram(axes, ranks, words)
    handles: list[Any] = [
        Patch(color=binding_colour(word), label=binding_label(word)) for word in binding_order(words.tolist())
    ]
    figure.legend(handles=handles, loc="outside right upper", title="Next rank limited by", alignment="left")
    if plan.get("rank") is not None:
        (axes.axhline if few else axes.axvline)(plan["rank"], color=INK, linewidth=1.5, linestyle="--")
    return figure


def _draw_bars(axes: Any, ranks: Ranks, words: Words, names: list[str]) -> None:
    order = np.argsort(ranks, kind="stable")
    places = np.arange(len(ranks))
    axes.bar(places, ranks[order], width=0.8, color=[binding_colour(word) for word in words[order]])
    axes.set_xticks(places, [names[index] for index in order], rotation=0 if len(ranks) <= LEVEL_NAMES else 90)
    axes.set_xlim(-0.6, max(len(ranks), 3) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_ylabel("Highest rank of the device")


def _draw_histogram(axes: Any, ranks: Ranks, words: Words) -> None:
    """Draw the number of devices by rank; in a wide range several ranks share a bar."""
    low, high = int(ranks.min()), int(ranks.max())
    width = -(-(high - low + 1) // MAX_BINS)
    bins = (ranks - low) // width
    lefts = low - 0.5 + width * np.arange(int(bins.max()) + 1)
    floor = np.zeros(len(lefts))
    for word in binding_order(np.unique(words).tolist()):
        counts = np.bincount(bins[words == word], minlength=len(lefts))
        axes.bar(
            lefts, counts, bottom=floor, width=width, align="edge", color=binding_colour(word), edgecolor="white", linewidth=0.4
        )
        floor = floor + counts
    # A margin on both sides, so that a single rank does not fill the figure.
    margin = max(width, (5 - len(lefts)) * width / 2)
    axes.set_xlim(lefts[0] - margin, lefts[-1] + width + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("Highest rank of the device" + (f" (bars of {width} ranks)" if width > 1 else ""))
    axes.set_ylabel("Devices")


def _title(plan: Mapping[str, Any]) -> str:
    devices, infeasible = len(plan["devices"]), len(plan.get("infeasible", []))
    deadline = plan.get("deadline_s")
    parts = [f"{devices:,} device{'' if devices == 1 else 's'}"]
    if plan.get("rank") is not None:
        parts.append(f"common rank {plan['rank']} (dashed)")
    if infeasible:
        parts.append(f"{infeasible:,} more cannot take part" if devices else f"{infeasible:,} cannot take part")
    if deadline is not None:
        parts.append(f"deadline {deadline:g} s")
    return ", ".join(parts)
