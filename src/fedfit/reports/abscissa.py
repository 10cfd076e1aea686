"""The x axes of curves: rounds, bytes sent, or the seconds and joules of the system model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from fedfit.reports.costs import since_the_start
from fedfit.reports.read import RunData
from fedfit.reports.style import bytes_scale, round_axis
from fedfit.units import duration_scale, energy_scale


@dataclass(frozen=True)
class Abscissa:
    """An x axis. ``series`` returns a run's value after each round, or ``None`` for a run without this quantity.

    ``scale`` maps the largest value to a divisor and a unit; without ``scale`` the values are counts.
    """

    label: str
    series: Callable[[RunData], list[float] | None]
    scale: Callable[[float], tuple[float, str]] | None = None

    def place(self, axes: Any, runs: Sequence[RunData]) -> list[list[float] | None]:
        """Set the label and limits of the x axis for all ``runs``; return each run's values in the unit of the axis."""
        series = [self.series(run) for run in runs]
        known = [value for values in series if values is not None for value in values]
        if self.scale is None:
            round_axis(axes, known, self.label)
            return series
        divisor, unit = self.scale(max(known))
        axes.set_xlabel(f"{self.label} ({unit})")
        return [None if values is None else [value / divisor for value in values] for values in series]


def _sent_bytes(run: RunData) -> list[float]:
    return list(accumulate(map(sum, zip(run.series("uplink_bytes"), run.series("downlink_bytes"), strict=True))))


ROUNDS = Abscissa("Round", lambda run: run.series("round"))
BYTES = Abscissa("Sent so far, uplink and downlink", _sent_bytes, bytes_scale)
TIME = Abscissa("Simulated time", lambda run: since_the_start(run, "simulated_s"), duration_scale)
ENERGY = Abscissa("Energy of all devices", lambda run: since_the_start(run, "simulated_j"), energy_scale)
