"""The metric that a sweep reads from its runs; only this module knows its key in ``rounds.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedfit.errors import Fault, RecipeError
from fedfit.metric_names import MODELS, higher_is_better
from fedfit.reports.metrics import Measure, capital
from fedfit.reports.read import RunData, number

PARTS = ("test", "validation")
"""The rows that a metric is measured on; each name is the prefix of its keys."""

OWN = "own"
"""In place of a part: the model that each device uses, on the device's own test rows, as the mean over the devices."""

_IN_WORDS = {"": "mean", "_mean": "mean", "_worst": "worst device", "_p10": "10th percentile", "_spread": "spread"}
_ENDINGS = ("_mean", "_worst", "_p10", "_spread")


@dataclass(frozen=True)
class Metric:
    """A metric by its name in the recipe, on the rows of one of ``PARTS``, or ``OWN``.

    A statistic of ``OWN`` other than the mean over the devices is part of the name: ``accuracy_worst``.
    """

    name: str = "accuracy"
    part: str = "test"

    @property
    def key(self) -> str:
        """The metric's key in a line of ``rounds.jsonl``; of ``OWN`` that of personal models, which stands for the others'."""
        return _own_keys(self.name)[1] if self.part == OWN else f"{self.part}_{self.name}"

    @property
    def rows(self) -> str:
        """The rows that it is measured on, in words: ``test rows``."""
        return "each device's own test rows" if self.part == OWN else f"{self.part} rows"

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of 1, which tables and figures show in percent."""
        return Measure.of(self.key).is_share

    @property
    def factor(self) -> float:
        """Factor from the recorded value to the displayed value."""
        return 100.0 if self.is_share else 1.0

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return higher_is_better(self.name)

    @property
    def word(self) -> str:
        """The metric's display name: ``accuracy``, ``macro-F1``."""
        return Measure.of(self.key).word

    @property
    def heading(self) -> str:
        """Heading for tables: ``accuracy, %``, ``loss, nats``, ``accuracy, worst device, %``."""
        unit, ending = Measure.of(self.key).unit, next((end for end in _ENDINGS if self.name.endswith(end)), "")
        words = (self.word, _IN_WORDS[ending], unit) if self.part == OWN else (self.word, unit)
        return ", ".join(word for word in words if word)

    @property
    def digits(self) -> int:
        """Digits behind the point of a displayed value."""
        return 1 if self.is_share else 3

    @property
    def difference_unit(self) -> str:
        """Unit of a displayed difference of two values: ``points``, ``nats``, or empty."""
        return "points" if self.is_share else Measure.of(self.key).unit

    def gain(self, value: float, other: float) -> float:
        """How much better ``value`` is than ``other``; negative if it is worse."""
        return value - other if self.higher_is_better else other - value

    @property
    def label(self) -> str:
        """Label for an axis: ``Test accuracy (%)``."""
        words = f"devices' own {self.word}" if self.part == OWN else Measure.of(self.key).label
        return capital(words) + (" (%)" if self.is_share else "")

    def shown(self, value: float) -> str:
        """``value`` as text: ``86.1 %`` for a share, ``0.861`` for any other metric."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.4g}"

    def of(self, line: Mapping[str, Any]) -> float:
        """The value in a line of ``rounds.jsonl``; NaN if the round did not measure it.

        Raises:
            RecipeError: for a metric that is missing in evaluated rounds; the message names the metrics that they have.
        """
        known = names_in(line, self.part)
        if known and self.name not in known:
            raise self._fault(f"they measure {', '.join(known)}")
        keys = _own_keys(self.name) if self.part == OWN else [self.key]
        return number(next((line[key] for key in keys if key in line), None))  # a round may have no evaluation

    def series(self, data: RunData) -> list[float]:
        """The value after each round, round 0 first.

        Raises:
            RecipeError: for a metric, or a part, that no round measured.
        """
        if data.rounds and not any(names_in(line, self.part) for line in data.rounds):
            raise self._fault(f"they measure no metric on {self.rows}")
        return [self.of(line) for line in data.rounds]

    def _fault(self, measured: str) -> RecipeError:
        return RecipeError([Fault("--metric", self.name, f"the runs do not measure it; {measured}")], "the sweep")

    def deciding(self, data: RunData) -> Metric:
        """The same metric on the rows that decide: the validation part if the run has one, else this metric's own rows.

        These rows choose learning rates, and decide when a target is reached. With a validation part, test rows decide nothing.
        """
        on_validation = replace(self, part="validation")
        measured = any(not math.isnan(number(line.get(on_validation.key))) for line in data.rounds)
        return on_validation if measured else self


def names_in(line: Mapping[str, Any], part: str = "test") -> list[str]:
    """The names of the metrics on the rows of ``part``, or of ``OWN``, in a line of ``rounds.jsonl``."""
    if part == OWN:
        keys = [key for key in line if key.startswith(MODELS) and key.endswith(_ENDINGS)]
        return list(dict.fromkeys(key.partition("_")[2].removesuffix("_mean") for key in keys))
    return [key.removeprefix(f"{part}_") for key in line if key.startswith(f"{part}_")]


def _own_keys(name: str) -> list[str]:
    """The keys of a metric of ``OWN``, the model that a device uses first."""
    return [f"{model}_{name}" + ("" if name.endswith(_ENDINGS) else "_mean") for model in reversed(MODELS)]
