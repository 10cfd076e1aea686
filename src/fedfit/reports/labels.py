"""Figure of the classes by device: bars for a few devices, a heat map for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedfit.reports.metrics import capital
from fedfit.reports.read import RunData
from fedfit.reports.style import FAINT, GRID, PALETTE, WIDE_INCHES, blank, plain

MAX_BARS = 40
MAX_COLUMNS = 800
"""Most columns of the heat map; more devices than this share columns, since a column each would be thinner than a pixel."""
MAX_NAMED_CLASSES = 25
MAX_NAMED_DEVICES = 20
_LETTERS_A_ROW = 90  # of names below a figure's bars; longer rows are slanted

Counts = npt.NDArray[np.float64]
"""``(devices, classes)``: training samples, or each class's share of the device's samples."""


def draw_labels(run: RunData) -> Any:
    """Draw bars or a heat map, by the number of devices and classes; ``None`` if the run has no partition."""
    if run.partition is None:
        return None
    names = [plain(label) for label in run.partition["labels"]]
    counts = np.asarray(run.partition["counts"], dtype=np.float64)
    kind = str(run.partition.get("kinds", "class"))
    if len(counts) <= MAX_BARS and len(names) <= len(PALETTE):
        return _draw_bars(run, names, counts, plain(kind))
    return _draw_heat_map(names, counts, plain(kind) or "kind")


def arrange(counts: Counts) -> Counts:
    """``counts`` with similar devices side by side: by largest class, then by its falling share, empty devices last.

    In the order of device numbers, the devices of one column would average to the overall mean and hide the skew.
    """
    shares = to_shares(counts)
    empty = counts.sum(axis=1) == 0
    largest = np.where(empty, counts.shape[1], counts.argmax(axis=1))
    height = np.where(empty, 0.0, np.nan_to_num(shares).max(axis=1))
    order: npt.NDArray[np.intp] = np.lexsort((-height, largest))
    return counts[order]


def to_shares(counts: Counts) -> Counts:
    """Each device's samples as shares of 1; NaN for a device without samples."""
    totals = counts.sum(axis=1, keepdims=True)
    shares: Counts = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return shares


def pool(values: Counts, columns: int = MAX_COLUMNS) -> Counts:
    """Means of neighbouring rows, so that at most ``columns`` rows remain."""
    if len(values) <= columns:
        return values
    starts = np.linspace(0, len(values), columns, endpoint=False).astype(int)
    sizes = np.diff(starts, append=len(values))
    pooled: Counts = np.add.reduceat(values, starts, axis=0) / sizes[:, None]
    return pooled


def name_ticks(axes: Any, run: RunData, devices: Sequence[int]) -> bool:
    """Names the ticks by the values behind ``devices``; false, and nothing done, without names or with many devices."""
    names = run.device_names
    if names is None or not devices or len(devices) > MAX_NAMED_DEVICES or max(devices) >= len(names):
        return False
    shown = [plain(names[device], 18) for device in devices]
    slanted = len(devices) * max(map(len, shown)) > _LETTERS_A_ROW
    axes.set_xticks(range(len(devices)), shown, **({"rotation": 30, "ha": "right"} if slanted else {}))
    axes.set_xlabel(f"Device, by {plain(run.recipe.get('partition', {}).get('column', 'name'))}")
    return True


def _draw_bars(run: RunData, names: list[str], counts: Counts, kind: str) -> Any:
    figure, axes = blank(WIDE_INCHES)
    devices, floor = np.arange(len(counts)), np.zeros(len(counts))
    for index, name in enumerate(names):
        look = {"color": PALETTE[index], "edgecolor": "white", "linewidth": 0.5}
        axes.bar(devices, counts[:, index], bottom=floor, width=0.8, label=name, **look)
        floor = floor + counts[:, index]
    axes.set_xlim(-0.6, max(len(counts), 3) - 0.4)
    if not name_ticks(axes, run, range(len(counts))):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True, min_n_ticks=1))
        axes.set_xlabel("Device")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("Training samples")
    if kind:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title=capital(kind))
    return figure


def _draw_heat_map(names: list[str], counts: Counts, kind: str) -> Any:
    figure, (sizes, heat) = blank((WIDE_INCHES[0], 4.8), nrows=2, sharex=True, gridspec_kw={"height_ratios": [1, 3]})
    arranged = arrange(counts)
    extent = (0, len(counts), len(names) - 0.5, -0.5)
    _draw_sizes(sizes, arranged.sum(axis=1))
    image = heat.imshow(
        pool(to_shares(arranged)).T, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, extent=extent
    )
    heat.grid(False)
    heat.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    heat.set_facecolor(GRID)
    without = int((counts.sum(axis=1) == 0).sum())
    note = f"; grey: {without:,} without samples" if without else ""
    heat.set_xlabel(f"{len(counts):,} devices, ordered by their largest {kind}{note}")
    if len(names) <= MAX_NAMED_CLASSES:
        heat.set_yticks(range(len(names)), names)
    else:
        heat.set_ylabel(capital(kind))
    bar = figure.colorbar(image, ax=heat, label="Share of the device's samples (%)", pad=0.01)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    bar.outline.set_visible(False)
    return figure


def _draw_sizes(axes: Any, samples: Counts) -> None:
    """Draw the samples of every device, in the order of the heat map below."""
    pooled = pool(samples[:, None])[:, 0]
    edges = np.linspace(0, len(samples), len(pooled) + 1)
    axes.stairs(pooled, edges, fill=True, color=FAINT)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("Samples")
    axes.tick_params(axis="x", length=0)
