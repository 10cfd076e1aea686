"""Metrics by their full names in ``rounds.jsonl``: display names, units and number formats.

A full name joins the part (``test``: the model or the rows measured), the metric's own name and, for a statistic over devices,
an ending: ``personal_accuracy_worst``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedfit.metric_names import PREFIXES

ABSENT = "–"
OTHERS = "others_"
"""Beginning of a metric's own name: a device's model, measured on test samples of other devices."""
ENDINGS = ("mean", "worst", "p10", "spread")
"""Endings of statistics over devices: ``p10`` is the tenth percentile from the worst, the spread a standard deviation."""

_SHARES = ("accuracy", "f1", "precision", "recall", "exact_match", "rouge_l")
_LOSSES = ("loss",)
_UNITS = {"kl": "nats a response token", "preference_margin": "nats"}
"""Units of other metrics than shares and losses."""
_WORDS = {
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "mcc": "MCC",
    "kl": "KL",
    "rouge_l": "ROUGE-L",
    "answer_f1": "answer F1",
    "f1": "F1",
}
"""Display names of metrics whose own names are not plain words."""


_IN_WORDS = {
    "mean": ", mean over devices",
    "worst": ", worst device",
    "p10": ", 10th percentile",
    "spread": ", spread over devices",
}
_SHORT = {"bits_per_byte": "bits/byte"}
"""Words of headings that take fewer lines than a display name."""


@dataclass(frozen=True)
class Measure:
    """A full name, split into its pieces; ``part`` and ``ending`` are empty if the name has none."""

    key: str
    part: str
    name: str
    ending: str = ""

    @classmethod
    def of(cls, key: str) -> Measure:
        """The measure of the full name ``key``."""
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
        name, _, ending = key.removeprefix(prefix).rpartition("_")
        if not name or ending not in ENDINGS:
            name, ending = key.removeprefix(prefix), ""
        return cls(key, prefix.rstrip("_"), name, ending)

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of 1, shown in percent."""
        return self.name.endswith(_SHARES)

    @property
    def is_loss(self) -> bool:
        """Whether the metric is a mean cross-entropy, in nats."""
        return self.name.removeprefix(OTHERS) in _LOSSES

    @property
    def factor(self) -> float:
        """Factor from the recorded value to the displayed value."""
        return 100.0 if self.is_share else 1.0

    @property
    def unit(self) -> str:
        """``%``, ``nats`` (of a task's loss: ``reports.losses``) or an empty text."""
        return "%" if self.is_share else "nats" if self.is_loss else _UNITS.get(self.name, "")

    @property
    def word(self) -> str:
        """The metric's display name: ``macro-F1``."""
        name = self.name.removeprefix(OTHERS)
        word = _WORDS.get(name, name.replace("_", " "))
        return f"{word} on others' samples" if self.name.startswith(OTHERS) else word

    @property
    def label(self) -> str:
        """Text for legends: ``test accuracy``, ``personal accuracy, worst device``."""
        return f"{self.part} {self.word}".strip() + _IN_WORDS.get(self.ending, "")

    @property
    def heading(self) -> str:
        """Heading for tables, without ``test`` except for a loss: ``Accuracy``, ``Test loss``."""
        word = _SHORT.get(self.name, self.word)
        named = word if self.part == "test" and not self.is_loss else f"{self.part} {word}".strip()
        return capital(f"{named} {self.ending}".strip())

    @property
    def axis(self) -> str:
        """Label for a y axis: ``Test accuracy (%)``."""
        return capital(self.label) + (f" ({self.unit})" if self.unit else "")

    def written(self, value: float | None) -> str:
        """``value`` as text: ``88.53 %`` for the share 0.88534, ``0.3457`` for a loss, a dash for a missing value."""
        return format_share(value) if self.is_share else format_loss(value) if self.is_loss else _four_digits(value)

    def bare(self, value: float | None) -> str:
        """``value`` as text without the unit."""
        return self.written(value).removesuffix(" %")


def capital(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def format_share(share: float | None) -> str:
    """``0.88534`` → ``'88.53 %'``; a dash for a missing value."""
    return f"{100 * share:.2f} %" if share is not None and math.isfinite(share) else ABSENT


def format_loss(loss: float | None) -> str:
    """``0.34567`` → ``'0.3457'``; a dash for a missing value."""
    return f"{loss:.4f}" if loss is not None and math.isfinite(loss) else ABSENT


def _four_digits(value: float | None) -> str:
    return f"{value:.4g}" if value is not None and math.isfinite(value) else ABSENT
