"""Figure of the ranks over rounds and of the limits that stop the next rank: dots for a few devices, shares for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedfit.reports.costs import REFUSED, DeviceRank, device_ranks
from fedfit.reports.read import RunData
from fedfit.reports.style import FAINT, GRID, INK, WIDE_INCHES, binding_colour, binding_label, binding_order, blank, round_axis

MAX_DOTS = 240
"""More dots than this would overlap."""
DODGE = 0.6
"""Width over which the dots of a round are spread, as a share of the distance to the next round."""
REFUSED_LABEL = "left out"
HEADING = "Next rank limited by:"
COMMON_LABEL, SPREAD_LABEL, MEDIAN_LABEL = LINE_LABELS = ("common rank", "lowest to highest", "median")


def draw_ranks(run: RunData) -> Any:
    """Draw the ranks and the limits that stop the next rank; ``None`` if no round has a rank."""
    entries = device_ranks(run)
    common = [(row["round"], row["rank"]) for row in run.rounds if row.get("rank") is not None]
    if not entries and not common:
        return None
    if len(entries) <= MAX_DOTS:
        figure, axes = blank(WIDE_INCHES)
        _draw_common(axes, common)
        _draw_dots(axes, entries, joined=not common)
        below = axes
    else:
        figure, (axes, below) = blank((WIDE_INCHES[0], 5.6), nrows=2, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
        _draw_common(axes, common)
        if not common:
            _draw_spread(axes, entries)
        _draw_shares(below, entries)
    axes.set_ylabel("Rank")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_ylim(0, 1.08 * max([rank for _, rank in common] + [entry.rank for entry in entries] + [1]))
    rounds = sorted({count for count, _ in common} | {entry.round for entry in entries})
    round_axis(below, rounds)
    below.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)
    figure.legend(*_legend(axes, below), loc="outside right upper", alignment="left")
    return figure


def _draw_common(axes: Any, common: Sequence[tuple[int, int]]) -> None:
    if common:
        marker = "_" if len(common) == 1 else None
        axes.plot(*zip(*common, strict=True), color=INK, linewidth=1.5, marker=marker, label=COMMON_LABEL, zorder=2)


def _draw_dots(axes: Any, entries: Sequence[DeviceRank], *, joined: bool) -> None:
    """Draw a dot per device, side by side so that equal ranks stay visible; a cross marks a device that is left out."""
    devices = sorted({entry.device for entry in entries})
    shift = {device: DODGE * ((index + 0.5) / len(devices) - 0.5) for index, device in enumerate(devices)}
    for device in devices if joined else ():
        own = [entry for entry in entries if entry.device == device]
        axes.plot(
            [entry.round + shift[device] for entry in own], [entry.rank for entry in own], color=GRID, linewidth=1, zorder=1
        )
    for word in binding_order(entry.word for entry in entries):
        chosen = [entry for entry in entries if entry.word == word]
        places = [entry.round + shift[entry.device] for entry in chosen], [entry.rank for entry in chosen]
        if word == REFUSED:
            axes.scatter(*places, color=INK, marker="x", s=30, label=REFUSED_LABEL, zorder=3, clip_on=False)
        else:
            look = {"color": binding_colour(word), "edgecolors": "white", "linewidths": 0.5, "s": 42}
            axes.scatter(*places, label=binding_label(word), zorder=3, **look)


def _draw_spread(axes: Any, entries: Sequence[DeviceRank]) -> None:
    """Draw the lowest, median and highest rank of the devices that take part."""
    ranks: dict[int, list[int]] = {}
    for entry in entries:
        if entry.rank > 0:
            ranks.setdefault(entry.round, []).append(entry.rank)
    if not ranks:
        return
    rounds = sorted(ranks)
    low, middle, high = np.array([(min(ranks[count]), np.median(ranks[count]), max(ranks[count])) for count in rounds]).T
    edges = [rounds[0] - 0.5, *(count + 0.5 for count in rounds)] if rounds == list(range(rounds[0], rounds[-1] + 1)) else None
    if edges is None:
        axes.fill_between(rounds, low, high, color=GRID, label=SPREAD_LABEL, zorder=1)
        axes.plot(rounds, middle, color=INK, label=MEDIAN_LABEL, zorder=2)
    else:
        axes.stairs(high, edges, baseline=low, fill=True, color=GRID, label=SPREAD_LABEL, zorder=1)
        axes.stairs(middle, edges, baseline=None, color=INK, linewidth=2, label=MEDIAN_LABEL, zorder=2)


def _draw_shares(axes: Any, entries: Sequence[DeviceRank]) -> None:
    """Draw, for each round, the percentage of devices that each limit stops."""
    rounds = sorted({entry.round for entry in entries})
    words = binding_order(entry.word for entry in entries)
    place, line = {count: index for index, count in enumerate(rounds)}, {word: index for index, word in enumerate(words)}
    counts = np.zeros((len(words), len(rounds)))
    np.add.at(counts, ([line[entry.word] for entry in entries], [place[entry.round] for entry in entries]), 1)
    shares = 100 * counts / counts.sum(axis=0)
    floor = np.zeros(len(rounds))
    for word, heights in zip(words, shares, strict=True):
        refused = word == REFUSED
        look = {"color": "white", "edgecolor": FAINT, "hatch": "////"} if refused else {"color": binding_colour(word)}
        label = REFUSED_LABEL if refused else binding_label(word)
        axes.bar(rounds, heights, bottom=floor, width=1.0 if len(rounds) > 40 else 0.8, label=label, linewidth=0, **look)
        floor = floor + heights
    axes.set_ylim(0, 100)
    axes.set_ylabel("Devices (%)")


def _legend(*panels: Any) -> tuple[list[Any], list[str]]:
    """Handles and texts of the legend: the lines first, then the colours under a heading."""
    found = {
        name: handle for axes in dict.fromkeys(panels) for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    lines = [name for name in found if name in LINE_LABELS]
    words = [name for name in found if name not in LINE_LABELS]
    heading = Line2D([], [], linestyle="none")
    return [*(found[name] for name in lines), heading, *(found[name] for name in words)], [*lines, HEADING, *words]
