"""Figures and table of the devices' own models beside the shared one, where a run has several models a device."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fedfit.metric_names import MODELS
from fedfit.reports.columns import Column
from fedfit.reports.curves import curve
from fedfit.reports.metrics import Measure, capital
from fedfit.reports.read import RunData, number
from fedfit.reports.style import FAINT, MARKED_POINTS, MARKERS, PALETTE, WIDE_INCHES, blank, round_axis


@dataclass(frozen=True)
class OwnModels:
    """The last scores of every device: ``values[model]`` and ``samples`` have an entry for each of ``rows``."""

    rows: list[dict[str, Any]]
    name: str
    values: Mapping[str, np.ndarray]
    higher_is_better: bool

    @classmethod
    def of(cls, run: RunData) -> OwnModels | None:
        """``None`` unless devices have at least two models."""
        rows, name = run.last_scores(), Measure.of(run.headline).name
        models = [model for model in MODELS if rows and f"{model}_{name}" in rows[0]]
        if len(models) < 2:
            return None
        values = {model: np.array([number(row.get(f"{model}_{name}")) for row in rows]) for model in models}
        return cls(rows, name, values, run.higher_is_better(f"{models[0]}_{name}"))

    @property
    def measure(self) -> Measure:
        """The metric, of any model."""
        return Measure.of(f"{next(iter(self.values))}_{self.name}")

    @property
    def gain(self) -> np.ndarray:
        """How much better the model that a device uses is than the first one, in displayed units."""
        first, *_, last = self.values.values()
        gain: np.ndarray = self.measure.factor * (last - first if self.higher_is_better else first - last)
        return gain

    def best_in(self, model: str) -> int:
        """The number of devices in which no other model is better."""
        signed = {name: values if self.higher_is_better else -values for name, values in self.values.items()}
        most = np.max(np.stack(list(signed.values())), axis=0)
        return int((signed[model] == most).sum())


def draw_own_models(run: RunData) -> Any:
    """Draw the mean and the worst device of each model by round, and every device's last score in order; ``None`` without."""
    own = OwnModels.of(run)
    if own is None:
        return None
    figure, (left, right) = blank(WIDE_INCHES, ncols=2)
    factor, rounds = own.measure.factor, run.series("round")
    for index, (model, values) in enumerate(own.values.items()):
        colour, marker = PALETTE[index], MARKERS[index]
        for ending, dash, word in (("mean", "-", "mean"), ("worst", "--", "worst device")):
            places, heights = curve(run, f"{model}_{own.name}_{ending}", rounds)
            look = {"marker": marker if len(places) <= MARKED_POINTS else None, "markeredgewidth": 0}
            left.plot(places, [factor * y for y in heights], color=colour, linestyle=dash, label=f"{model}, {word}", **look)
        ordered = factor * np.sort(values)
        few = len(ordered) <= MARKED_POINTS
        right.plot(np.arange(1, len(ordered) + 1), ordered, color=colour, marker=marker if few else None, markeredgewidth=0)
    round_axis(left, rounds)
    right.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    for axes in (left, right):  # each with its own scale: the models differ little in the end, and much on the way
        axes.set_ylabel(capital(own.measure.word) + (f" ({own.measure.unit})" if own.measure.unit else ""))
    left.set_title("By round")
    right.set_xlabel(f"{len(own.rows):,} devices, for each model in its own order")
    right.set_title("Each device, in the last evaluation")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(own.values))
    return figure


def draw_own_gain(run: RunData) -> Any:
    """Draw each device's gain over its samples, and over the skew of its classes where there are classes; ``None`` without."""
    own = OwnModels.of(run)
    if own is None or run.partition is None:
        return None
    devices = [row["device"] for row in own.rows]
    counts = np.array(run.partition["counts"], dtype=float)[devices]
    panels = [(counts.sum(axis=1), "Training samples of the device")]
    if run.task.get("kind", "classification") == "classification" and counts.shape[1] > 1:
        panels.append((skew(counts, np.array(run.partition["counts"], dtype=float)), "Skew of its classes, 0 to 1"))
    figure, axes = blank((WIDE_INCHES[0], 3.4), ncols=len(panels), sharey=True, squeeze=False)
    for place, (x, label) in zip(axes[0], panels, strict=True):
        place.axhline(0, color=FAINT, linewidth=1.2)
        place.scatter(x, own.gain, color=PALETTE[0], s=28 if len(x) <= MARKED_POINTS else 8, linewidths=0)
        place.set_xlabel(label)
    unit = "points" if own.measure.is_share else own.measure.unit
    used, first = list(own.values)[-1], next(iter(own.values))
    axes[0][0].set_ylabel(f"Gain of {used} over {first}" + (f" ({unit})" if unit else ""))
    return figure


def skew(counts: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """Total variation between the class shares of each row of ``counts`` and those of all devices together, ``(devices,)``."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance: np.ndarray = 0.5 * np.abs(shares - everyone.sum(axis=0) / everyone.sum()).sum(axis=1)
    return distance


def own_table(run: RunData) -> tuple[list[Column], list[dict[str, Any]], str]:
    """Columns, a row for each model, and a note on the fusion; no rows where devices do not have several models."""
    own = OwnModels.of(run)
    if own is None:
        return [], [], ""
    last = run.measured[-1]
    rows = [
        {
            "model": model,
            **{ending: last.get(f"{model}_{own.name}_{ending}") for ending in ("mean", "worst", "p10", "spread")},
            "best": f"{own.best_in(model)} of {len(own.rows)}",
        }
        for model in own.values
    ]
    headings = {"mean": "Mean", "worst": "Worst device", "p10": "10th percentile", "spread": "Spread"}
    columns = [
        Column("Model", lambda row: str(row["model"]), kind="label"),
        *(Column(f"{heading}", _written(own.measure, key)) for key, heading in headings.items()),
        Column("Best in", lambda row: str(row["best"])),
    ]
    return columns, rows, _fusion_words([row.get("facts", {}) for row in own.rows])


def _written(measure: Measure, key: str) -> Any:
    return lambda row: measure.written(row[key])


def _fusion_words(facts: Sequence[Mapping[str, Any]]) -> str:
    """The weights of the fusions in words, and why devices have none."""
    words = []
    for name in ("personal", "shared"):
        weights = [number(each.get(f"weight_{name}")) for each in facts]
        known = [weight for weight in weights if not math.isnan(weight)]
        if known:
            words.append(f"weight of the {name} adapter {statistics.median(known):.2f} ({min(known):.2f} to {max(known):.2f})")
    found = [f"In the median of the fused devices, with the range: {', '.join(words)}."] if words else []
    reasons = Counter(str(each["not_fused"]) for each in facts if "not_fused" in each)
    found += [f"Not fused in {count} of {len(facts)}: {reason}." for reason, count in reasons.items()]
    return " ".join(found)
