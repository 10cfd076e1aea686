"""The figures of one run, and those that lay several runs over one another.

Everything is drawn outside pyplot, so that no figure outlives its function and no backend is chosen for the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from fedfit.reports.labels import draw_labels
from fedfit.reports.read import RunData, display_names
from fedfit.reports.style import (
    DASHES,
    FAINT,
    MARKED_POINTS,
    PALETTE,
    SINGLE_INCHES,
    WIDE_INCHES,
    blank,
    bytes_scale,
    drawing,
    line_look,
    plain,
    round_axis,
    save,
    seconds_scale,
)

MANY_RUNS = 4
"""With more runs than this the legend goes beside the figure."""


def write_figures(run: RunData, folder: Path) -> list[Path]:
    """Draw every entry of ``FIGURES`` into ``folder``, as PNG and SVG. ``labels`` needs a partition."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with drawing():
        for name, draw in FIGURES.items():
            figure = draw(run)
            if figure is not None:
                paths += save(figure, folder / name)
    return paths


def overlay(runs: Sequence[RunData], folder: Path) -> list[Path]:
    """Draw every entry of ``COMPARISONS`` into ``folder``, as PNG and SVG, one line a run. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with drawing():
        return [path for name, draw in COMPARISONS.items() for path in save(draw(runs), folder / name)]


def draw_accuracy(run: RunData) -> Any:
    """Test accuracy and macro-F1 in percent over rounds, with what guessing among the classes would give."""
    figure, axes = blank(SINGLE_INCHES)
    rounds = run.series("round")
    for index, (key, label) in enumerate((("test_accuracy", "test accuracy"), ("test_macro_f1", "test macro-F1"))):
        # The two often coincide; accuracy, which people look for, lies on top.
        axes.plot(rounds, _percent(run, key), label=label, zorder=3 - index, **line_look(index, len(rounds)))
    if run.partition is not None:
        classes = len(run.partition["labels"])
        axes.axhline(100 / classes, color=FAINT, linewidth=1.2, linestyle=":", label=f"chance, 1 of {classes} classes")
    round_axis(axes, rounds)
    axes.set_ylabel("Accuracy and macro-F1 (%)")
    axes.legend(loc="best")
    return figure


def draw_loss(run: RunData) -> Any:
    """Test and training loss over rounds; there is no training in round 0."""
    figure, axes = blank(SINGLE_INCHES)
    rounds = run.series("round")
    for index, (key, label) in enumerate((("test_loss", "test"), ("train_loss", "training, mean over devices"))):
        axes.plot(rounds, run.series(key), label=label, **line_look(index, len(rounds)))
    round_axis(axes, rounds)
    axes.set_ylabel("Cross-entropy (nats per sample)")
    axes.legend(loc="best")
    return figure


def draw_bytes(run: RunData) -> Any:
    """What was sent: by round, and added up with one direction stacked on the other."""
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
    """Wall time of every round."""
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


def draw_compare_accuracy(runs: Sequence[RunData]) -> Any:
    """Test accuracy over rounds, a line a run."""
    lines = [(run.series("round"), _percent(run, "test_accuracy")) for run in runs]
    return _draw_lines(runs, lines, "Test accuracy (%)", None)


def draw_compare_loss(runs: Sequence[RunData]) -> Any:
    """Test loss over rounds, a line a run."""
    lines = [(run.series("round"), run.series("test_loss")) for run in runs]
    return _draw_lines(runs, lines, "Test cross-entropy (nats per sample)", None)


def draw_compare_bytes(runs: Sequence[RunData]) -> Any:
    """Test accuracy over the bytes sent so far in both directions, a line a run."""
    sent = [_cumulative_bytes(run) for run in runs]
    divisor, unit = bytes_scale(max(series[-1] for series in sent))
    lines = [
        ([value / divisor for value in series], _percent(run, "test_accuracy")) for series, run in zip(sent, runs, strict=True)
    ]
    return _draw_lines(runs, lines, "Test accuracy (%)", f"Sent so far, uplink and downlink ({unit})")


def _draw_lines(
    runs: Sequence[RunData], lines: Sequence[tuple[list[float], list[float]]], y_label: str, x_label: str | None
) -> Any:
    """One line a run, over rounds where ``x_label`` is ``None``."""
    figure, axes = blank(WIDE_INCHES if len(runs) > MANY_RUNS else SINGLE_INCHES)
    for index, (name, (x, y)) in enumerate(zip(display_names(runs), lines, strict=True)):
        axes.plot(x, y, label=plain(name, 40), **line_look(index, len(x)))
    if x_label is None:
        round_axis(axes, [value for x, _ in lines for value in x])
    else:
        axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(runs) > MANY_RUNS:
        figure.legend(loc="outside right upper")
    else:
        axes.legend(loc="best")
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


def _percent(run: RunData, key: str) -> list[float]:
    return [100 * value for value in run.series(key)]


def _cumulative_bytes(run: RunData) -> list[float]:
    return list(accumulate(map(sum, zip(run.series("uplink_bytes"), run.series("downlink_bytes"), strict=True))))


FIGURES: dict[str, Callable[[RunData], Any]] = {
    "accuracy": draw_accuracy,
    "loss": draw_loss,
    "labels": draw_labels,
    "bytes": draw_bytes,
    "seconds": draw_seconds,
}
COMPARISONS: dict[str, Callable[[Sequence[RunData]], Any]] = {
    "compare_accuracy": draw_compare_accuracy,
    "compare_loss": draw_compare_loss,
    "compare_bytes": draw_compare_bytes,
}
