"""When a run has had enough rounds: a pure function of its records, so that a resumed run stops where a whole one does."""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.core.task import Metric
from fedfit.records import RoundRecord
from fedfit.settings import Recipe

_DECIDING = ("validation_{}", "test_{}", "personal_{}_mean", "shared_{}_mean")


def enough(recipe: Recipe, headline: str, records: Sequence[RoundRecord]) -> bool:
    """Whether the last round is done, the target accuracy reached, or patience at its end.

    Args:
        headline: the task's first metric, which patience looks at.
        records: every round so far.
    """
    if not records:
        return False
    last, target = records[-1], deciding(records[-1], "accuracy")
    reached = target is not None and 0 < recipe.training.target_accuracy <= target.value
    return last.round >= recipe.federation.rounds or reached or _impatient(recipe.training.patience, headline, records)


def deciding(record: RoundRecord, metric: str) -> Metric | None:
    """``metric`` on the validation samples if the run has them, else on the test samples, else on the devices' own;
    ``None`` in a round without evaluation."""
    found = (record.metrics.get(name.format(metric)) for name in _DECIDING)
    return next((each for each in found if each is not None), None)


def _impatient(patience: int, metric: str, records: Sequence[RoundRecord]) -> bool:
    """Whether the best of all evaluations, the untrained model's among them, is ``patience`` evaluations old."""
    measured = [found for record in records if (found := deciding(record, metric)) is not None]
    values = [found.value if found.higher_is_better else -found.value for found in measured]
    return 0 < patience <= len(values) - 1 - values.index(max(values)) if values else False
