"""Curves of a run's metrics: one figure per unit, so that each figure has one y axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedfit.metric_names import MODELS
from fedfit.reports.abscissa import ENERGY, ROUNDS, TIME, Abscissa
from fedfit.reports.losses import loss_words
from fedfit.reports.metrics import OTHERS, Measure, capital
from fedfit.reports.read import RunData, number
from fedfit.reports.style import FAINT, SINGLE_INCHES, blank, line_look

OVER = {"": ROUNDS, "_time": TIME, "_energy": ENERGY}
"""Suffix of a figure's name → its x axis."""
WIDE = 5.0
"""Ratio of two perplexities beyond which their axis is logarithmic."""


@dataclass(frozen=True)
class Group:
    """Metrics of one unit, the most important first; ``name`` is the name of their figure."""

    name: str
    measures: tuple[Measure, ...]

    @property
    def is_loss(self) -> bool:
        """Whether the metrics are losses; their figure then shows the training loss as well."""
        return self.measures[0].is_loss

    @property
    def title(self) -> str:
        """Title of the figure: ``Accuracy``."""
        return capital(self.measures[0].word)

    def axis(self, run: RunData) -> str:
        """Label of the y axis with the unit: ``Accuracy and macro-F1 (%)``, ``Cross-entropy (nats)``."""
        words = list(dict.fromkeys(measure.word for measure in self.measures))
        name, unit = " and ".join(words) if len(words) < 3 else "Metrics", self.measures[0].unit
        if self.is_loss:
            name, unit = loss_words(run)
        return capital(name) + (f" ({unit})" if unit else "")

    @property
    def parts(self) -> list[str]:
        """The parts that the metrics were measured on (``test``, ``validation`` …), each once."""
        return list(dict.fromkeys(measure.part for measure in self.measures))


def groups(run: RunData) -> list[Group]:
    """The run's metrics in groups, the headline's group first: shares, losses, and every other metric alone.

    Of the statistics over devices, figures show the headline's mean and worst device and the mean loss; tables show the rest.
    Where devices have several models, a figure of its own compares these, and here are the others alone. What models reach on
    other devices' samples is in tables alone.
    """
    measures = [Measure.of(key) for key in dict.fromkeys([run.headline, *run.keys])]
    name = measures[0].name
    if len({found.part for found in measures if found.part in MODELS}) > 1:
        measures = [found for found in measures if found.part not in MODELS or found.is_loss] or measures
    measures = [found for found in measures if _is_drawn(found, name)]
    sorts: dict[str, list[Measure]] = {}
    for measure in measures:
        sorts.setdefault("share" if measure.is_share else measure.name, []).append(measure)
    return [Group(found[0].name, tuple(found)) for found in sorts.values()]


def curves(run: RunData) -> dict[str, Callable[[RunData], Any]]:
    """Name → draw function of each metrics figure; the headline's group and the losses also over time and energy."""
    found = groups(run)
    leading = [group for number, group in enumerate(found) if number == 0 or group.is_loss]
    shown = [*leading, *(group for group in found if group not in leading)]
    return {
        f"{group.name}{suffix}": partial(draw_curves, group=group, over=over)
        for suffix, over in OVER.items()
        for group in (shown if over is ROUNDS else leading)
    }


def draw_curves(run: RunData, group: Group, over: Abscissa) -> Any:
    """Draw the metrics of ``group`` over the axis ``over``; ``None`` if the run lacks this axis.

    The line passes over a round without evaluation; a value that is not finite leaves a gap.
    """
    if over.series(run) is None:
        return None
    figure, axes = blank(SINGLE_INCHES)
    x = over.place(axes, [run])[0] or []
    lines = [(measure.key, measure.factor, _label(group, measure)) for measure in group.measures]
    lines += [("train_loss", 1.0, "training, mean over devices")] if group.is_loss else []
    for index, (key, factor, label) in enumerate(lines):
        places, values = curve(run, key, x)
        look = line_look(index, len(places))
        # Curves often coincide: the first metric, the most important one, lies on top.
        axes.plot(places, [factor * value for value in values], label=label, zorder=3 - index / len(lines), **look)
    if chance := _chance(run, group):
        among, words = chance
        axes.axhline(100 / among, color=FAINT, linewidth=1.2, linestyle=":", label=f"chance, 1 of {among} {words}")
    _scale(axes, group)
    axes.set_ylabel(group.axis(run))
    axes.legend(loc="best")
    return figure


def curve(run: RunData, key: str, x: list[float]) -> tuple[list[float], list[float]]:
    """The x and y values of ``key`` in the rounds that recorded it; ``x`` has one entry per round."""
    points = [(place, number(row[key])) for place, row in zip(x, run.rounds, strict=True) if key in row]
    return [place for place, _ in points], [value for _, value in points]


def _chance(run: RunData, group: Group) -> tuple[int, str] | None:
    """Among how many a guess would choose, and of what; ``None`` where guessing has no fixed score."""
    names = {measure.name for measure in group.measures}
    if "accuracy" in names and run.partition is not None and run.task.get("kind", "classification") == "classification":
        return len(run.partition["labels"]), "classes"
    choices = run.task.get("choices")
    if "answer_accuracy" in names and isinstance(choices, list) and choices:
        return len(choices), "choices"
    return (2, "responses") if "preference_accuracy" in names else None


def _scale(axes: Any, group: Group) -> None:
    """A logarithmic axis for perplexities that differ more than ``WIDE``-fold: the untrained model's dwarfs all others."""
    values = [value for line in axes.get_lines() for value in line.get_ydata() if math.isfinite(value) and value > 0]
    if group.name == "perplexity" and values and max(values) > WIDE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _is_drawn(measure: Measure, headline: str) -> bool:
    if measure.name.startswith(OTHERS):
        return False
    if measure.name == headline:
        return measure.ending not in ("p10", "spread")
    return not measure.ending or (measure.ending == "mean" and measure.is_loss)


def _label(group: Group, measure: Measure) -> str:
    """Legend text; for losses only the part (``test``), since the axis names the loss."""
    return measure.label.replace(f" {measure.word}", "", 1) if group.is_loss else measure.label
