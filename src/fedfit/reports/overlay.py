"""The figures that lay several runs over one another, one line a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfit.reports.abscissa import BYTES, ENERGY, ROUNDS, TIME, Abscissa
from fedfit.reports.read import RunData, display_names
from fedfit.reports.style import SINGLE_INCHES, WIDE_INCHES, blank, drawing, line_look, plain, save

MANY_RUNS = 4
"""With more runs than this the legend goes beside the figure."""


def overlay(runs: Sequence[RunData], folder: Path) -> list[Path]:
    """Draw the entries of ``COMPARISONS`` that some run has values for into ``folder``, as PNG and SVG. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with drawing():
        for name, draw in COMPARISONS.items():
            figure = draw(runs)
            if figure is not None:
                paths += save(figure, folder / name)
    return paths


def draw_comparison(runs: Sequence[RunData], key: str, label: str, factor: float, over: Abscissa) -> Any:
    """``key`` of a round times ``factor`` over ``over``. A run without such values keeps only its place in the legend.

    ``None`` where no run has them.
    """
    if all(over.series(run) is None for run in runs):
        return None
    figure, axes = blank(WIDE_INCHES if len(runs) > MANY_RUNS else SINGLE_INCHES)
    # A run has its colour by its place among all, so that it is the same in every figure of a comparison.
    for index, (run, name, x) in enumerate(zip(runs, display_names(runs), over.place(axes, runs), strict=True)):
        if x is None:
            axes.plot([], [], linestyle="none", label=f"{plain(name, 32)}: not simulated")
        else:
            y = [factor * value for value in run.series(key)]
            axes.plot(x, y, label=plain(name, 40), **line_look(index, len(x)))
    axes.set_ylabel(label)
    if len(runs) > MANY_RUNS:
        figure.legend(loc="outside right upper")
    else:
        axes.legend(loc="best")
    return figure


def _accuracy(over: Abscissa) -> Callable[[Sequence[RunData]], Any]:
    return partial(draw_comparison, key="test_accuracy", label="Test accuracy (%)", factor=100, over=over)


def _loss(over: Abscissa) -> Callable[[Sequence[RunData]], Any]:
    return partial(draw_comparison, key="test_loss", label="Test cross-entropy (nats per sample)", factor=1, over=over)


COMPARISONS: dict[str, Callable[[Sequence[RunData]], Any]] = {
    "compare_accuracy": _accuracy(ROUNDS),
    "compare_loss": _loss(ROUNDS),
    "compare_bytes": _accuracy(BYTES),
    "compare_accuracy_time": _accuracy(TIME),
    "compare_loss_time": _loss(TIME),
    "compare_accuracy_energy": _accuracy(ENERGY),
    "compare_loss_energy": _loss(ENERGY),
}
