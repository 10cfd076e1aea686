"""The mean of paired differences over the seeds, and the verdict on it; ``paired_rule`` states the rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedfit.sweeps.metric import Metric

_PAIRED = """\
With n differences of mean m and standard error s/√n, {rule} degrees of freedom. One seed tells
nothing of the noise, so with one seed every such claim is within it. A claim of several parts holds when each part holds, and
does not hold when any part does not.

Differences are in {unit} of {name} after the last round, mean ± standard error.
"""
_HIGHER = """\
a claim holds when m lies above t·s/√n, does not hold when it lies below
−t·s/√n, and is within the noise otherwise; t is Student's two-sided 95 % quantile at n − 1"""
_LOWER = """\
a claim holds when m lies below −t·s/√n, for lower is better, does not hold
when it lies above t·s/√n, and is within the noise otherwise; t is Student's two-sided 95 % quantile at n − 1"""

HOLDS, FAILS, NOISE = "holds", "does not hold", "within the noise"

# Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom; beyond, the last value errs on the side of "within the noise".
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def paired_rule(metric: Metric) -> str:
    """How differences of ``metric`` are judged, in words."""
    rule = _HIGHER if metric.higher_is_better else _LOWER
    return _PAIRED.format(rule=rule, unit=metric.difference_unit or "units", name=metric.key.replace("_", " "))


@dataclass(frozen=True)
class Estimate:
    """Mean of ``n`` differences of a metric as displayed (accuracy in points), and its standard error, ``None`` for a single
    difference. By less than ``margin`` the first may be worse.
    """

    mean: float
    error: float | None
    n: int
    metric: Metric = field(default_factory=Metric)
    margin: float = 0.0

    @classmethod
    def of(cls, differences: Sequence[float], metric: Metric | None = None, margin: float = 0.0) -> Estimate:
        """The estimate from one difference per seed; ``metric`` is the test accuracy by default."""
        n = len(differences)
        error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else None
        return cls(statistics.fmean(differences), error, n, metric or Metric(), margin)

    @property
    def word(self) -> str:
        """The verdict on the claim that the first of the two is better, or worse by less than the margin: that the mean lies on
        the better side of 0, or of the margin.
        """
        if self.error is None:
            return NOISE
        reach = _T[min(self.n - 1, len(_T)) - 1] * self.error
        gain = self.metric.gain(self.mean, 0) + self.margin
        return HOLDS if gain > reach else FAILS if gain < -reach else NOISE

    @property
    def bare(self) -> str:
        """``-0.93 ± 0.20``: mean and standard error, without the unit."""
        spread = "" if self.error is None else f" ± {self._digits(self.error)}"
        return f"{difference_text(self.mean, self.metric)}{spread}"

    def __str__(self) -> str:
        spread = "one seed" if self.error is None else f"± {self._digits(self.error)}, {self.n} seeds"
        return f"{difference_text(self.mean, self.metric)} {self.metric.difference_unit} ({spread})".replace("  ", " ")

    def _digits(self, value: float) -> str:
        return difference_text(value, self.metric).removeprefix("+")


def difference_text(value: float, metric: Metric) -> str:
    """A difference with its sign, to the digits that ``metric`` has and one more."""
    return f"{value:+.{metric.digits + 1}f}"


def joint_word(words: Iterable[str]) -> str:
    """The verdict on a claim of several parts, from the verdicts on the parts."""
    found = set(words)
    return FAILS if FAILS in found else NOISE if NOISE in found else HOLDS
