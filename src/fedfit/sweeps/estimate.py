"""The mean of paired differences over the seeds, and the verdict on it; ``PAIRED`` states the rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PAIRED = """\
With n differences of mean m and standard error s/√n, a claim holds when m lies above t·s/√n, does not hold when it lies below
−t·s/√n, and is within the noise otherwise; t is Student's two-sided 95 % quantile at n − 1 degrees of freedom. One seed tells
nothing of the noise, so with one seed every such claim is within it. A claim of several parts holds when each part holds, and
does not hold when any part does not.

Differences are in points of test accuracy after the last round, mean ± standard error.
"""

HOLDS, FAILS, NOISE = "holds", "does not hold", "within the noise"

# Student's t, 97.5 % quantile, for 1 to 10 degrees of freedom; beyond, the last value errs on the side of "within the noise".
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Estimate:
    """Mean of ``n`` differences in points of accuracy, and its standard error, ``None`` for a single difference."""

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Estimate:
        """The estimate from one difference per seed."""
        n = len(differences)
        error = statistics.stdev(differences) / math.sqrt(n) if n > 1 else None
        return cls(statistics.fmean(differences), error, n)

    @property
    def word(self) -> str:
        """The verdict on the claim that the mean is above 0."""
        if self.error is None:
            return NOISE
        reach = _T[min(self.n - 1, len(_T)) - 1] * self.error
        return HOLDS if self.mean > reach else FAILS if self.mean < -reach else NOISE

    def __str__(self) -> str:
        spread = "one seed" if self.error is None else f"± {self.error:.2f}, {self.n} seeds"
        return f"{self.mean:+.2f} points ({spread})"


def joint_word(words: Iterable[str]) -> str:
    """The verdict on a claim of several parts, from the verdicts on the parts."""
    found = set(words)
    return FAILS if FAILS in found else NOISE if NOISE in found else HOLDS
