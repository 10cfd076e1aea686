"""The figures of one run.

No figure uses pyplot: a figure is freed after use, and the caller's backend stays unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedfit.reports.by_device import draw_by_device
from fedfit.reports.confusion import draw_confusion
from fedfit.reports.curves import curves
from fedfit.reports.labels import draw_labels
from fedfit.reports.ledger import draw_ledger
from fedfit.reports.own_models import draw_own_gain, draw_own_models
from fedfit.reports.ranks import draw_ranks
from fedfit.reports.read import RunData
from fedfit.reports.style import (
    DASHES,
    FAINT,
    MARKED_POINTS,
    PALETTE,
    WIDE_INCHES,
    blank,
    bytes_scale,
    drawing,
    round_axis,
    save,
    seconds_scale,
)


def write_figures(run: RunData, folder: Path) -> list[Path]:
    """Draw every entry of ``figures_of`` into ``folder``, as PNG and SVG; return the paths. Skips figures without data."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with drawing():
        for name, draw in figures_of(run).items():
            figure = draw(run)
            if figure is not None:
                paths += save(figure, folder / name)
    return paths


def draw_bytes(run: RunData) -> Any:
    """Draw the bytes sent by round, and their running total with the two directions stacked."""
    figure, (by_round, added_up) = blank(WIDE_INCHES, ncols=2)
    rounds, up, down = run.series("round"), run.series("uplink_bytes"), run.series("downlink_bytes")
    _draw_bytes_by_round(by_round, rounds, up, down)
    divisor, unit = bytes_scale(sum(up) + sum(down))
    stacked = [[value / divisor for value in accumulate(series)] for series in (up, down)]
    added_up.stackplot(rounds, *stacked, labels=("uplink", "downlink"), colors=PALETTE[:2], edgecolor="white")
    round_axis(added_up, rounds)
    added_up.set_ylim(bottom=0)
    added_up.set_ylabel(f"Sent since the start ({unit})")
    added_up.set_title("Cumulative, stacked")
    handles, names = by_round.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2)
    return figure


def draw_seconds(run: RunData) -> Any:
    """Draw the wall time of every round."""
    figure, axes = blank((WIDE_INCHES[0], 3.2))
    rounds, seconds = run.series("round"), run.series("seconds")
    divisor, unit = seconds_scale(max(seconds))
    heights = [value / divisor for value in seconds]
    if len(rounds) <= MARKED_POINTS:
        colours = [FAINT if count == 0 else PALETTE[0] for count in rounds]
        axes.bar(rounds, heights, width=0.7, color=colours)
    else:
        axes.plot(rounds, heights, color=PALETTE[0], drawstyle="steps-mid")
    round_axis(axes, rounds, "Round (0: evaluation before training)" if rounds[0] == 0 else "Round")
    axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"Wall time ({unit})")
    return figure


def _draw_bytes_by_round(axes: Any, rounds: list[float], up: list[float], down: list[float]) -> None:
    divisor, unit = bytes_scale(max(*up, *down))
    for side, (label, series) in enumerate((("uplink", up), ("downlink", down))):
        heights = [value / divisor for value in series]
        if len(rounds) <= MARKED_POINTS:
            axes.bar([count - 0.19 + 0.38 * side for count in rounds], heights, width=0.38, color=PALETTE[side], label=label)
        else:
            axes.plot(rounds, heights, color=PALETTE[side], linestyle=DASHES[side], drawstyle="steps-mid", label=label)
    round_axis(axes, rounds)
    axes.set_xlim(min(rounds) - 0.6, max(rounds) + 0.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"Sent in the round ({unit})")
    axes.set_title("By round")


FIGURES: dict[str, Callable[[RunData], Any]] = {
    "confusion": draw_confusion,
    "own_models": draw_own_models,
    "own_gain": draw_own_gain,
    "by_device": draw_by_device,
    "ranks": draw_ranks,
    "ledger": draw_ledger,
    "labels": draw_labels,
    "bytes": draw_bytes,
    "seconds": draw_seconds,
}
"""Name → draw function of every figure except those of the metrics."""


def figures_of(run: RunData) -> dict[str, Callable[[RunData], Any]]:
    """Name → draw function of all figures, in the order of the page."""
    return {**curves(run), **FIGURES}
