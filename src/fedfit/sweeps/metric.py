"""Which measured value of a round a sweep reads: the only place that knows its key in ``rounds.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedfit.errors import Fault, RecipeError
from fedfit.reports.metrics import Measure
from fedfit.reports.read import RunData, number

PARTS = ("test", "validation")
"""The rows that a value is measured on; each is the prefix of its keys."""


@dataclass(frozen=True)
class Metric:
    """A metric by its name in the recipe, on the rows of one of ``PARTS``."""

    name: str = "accuracy"
    part: str = "test"

    @property
    def key(self) -> str:
        """Its key in a line of ``rounds.jsonl``."""
        return f"{self.part}_{self.name}"

    @property
    def is_share(self) -> bool:
        """Whether it is a share of 1, which tables and figures show in percent."""
        return Measure.of(self.key).is_share

    @property
    def factor(self) -> float:
        """Turns the value as recorded into the value as shown."""
        return 100.0 if self.is_share else 1.0

    @property
    def label(self) -> str:
        """For an axis: ``Test accuracy (%)``."""
        return f"{self.key.capitalize().replace('_', ' ')}{' (%)' if self.is_share else ''}"

    def shown(self, value: float) -> str:
        """``0.861`` as ``86.1 %``, a value that is no share as ``0.861``."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.4g}"

    def of(self, line: Mapping[str, Any]) -> float:
        """The value in a line of ``rounds.jsonl``; NaN where the round did not measure it.

        Raises:
            RecipeError: for a metric that these lines do not have; it names those that they have.
        """
        known = names_in(line, self.part)
        if known and self.name not in known:
            raise self._fault(f"they measure {', '.join(known)}")
        return number(line.get(self.key))  # a round without evaluation has no metric at all

    def series(self, data: RunData) -> list[float]:
        """The value after each round, round 0 first.

        Raises:
            RecipeError: for a metric, or a part, that no round measured.
        """
        if data.rounds and not any(names_in(line, self.part) for line in data.rounds):
            raise self._fault(f"they measure no metric on {self.part} rows")
        return [self.of(line) for line in data.rounds]

    def _fault(self, measured: str) -> RecipeError:
        return RecipeError([Fault("--metric", self.name, f"the runs do not measure it; {measured}")], "the sweep")

    def deciding(self, data: RunData) -> Metric:
        """The same metric on the rows that may decide: the validation part if the run has one, else this one's own rows.

        Learning rates are chosen, and a target counts as reached, by these rows, so that a run with a validation part
        reports test rows that decided nothing.
        """
        on_validation = replace(self, part="validation")
        measured = any(not math.isnan(number(line.get(on_validation.key))) for line in data.rounds)
        return on_validation if measured else self


def names_in(line: Mapping[str, Any], part: str = "test") -> list[str]:
    """The metrics that a line of ``rounds.jsonl`` holds for the rows of ``part``."""
    return [key.removeprefix(f"{part}_") for key in line if key.startswith(f"{part}_")]
