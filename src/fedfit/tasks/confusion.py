"""A classifier seen closer: confusion matrix, scores of each class, and the predictions that are confidently wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor

from fedfit.core.task import Show

SHOWN_ERRORS = 20
"""Wrong predictions that are kept, those of the highest probability."""


class ClassExaminer:
    """Gathers true and predicted classes, and the probability of the predicted one."""

    def __init__(self, label_names: Sequence[str]) -> None:
        self._names = label_names
        self._true: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        self._errors: list[tuple[float, int, int, int]] = []

    def add(self, output: Tensor, targets: Tensor, rows: np.ndarray) -> None:
        """Logits ``(batch, classes)``, class numbers ``(batch,)``, and the samples' rows ``(batch,)``."""
        best = output.float().softmax(dim=1).max(dim=1)
        probabilities, predicted, true = best.values.cpu().numpy(), best.indices.cpu().numpy(), targets.cpu().numpy()
        self._true.append(true)
        self._predicted.append(predicted)
        wrong = np.flatnonzero(true != predicted)
        # The row is negated so that of equally confident predictions the earlier row is kept, whatever the batches were.
        found = [(float(probabilities[i]), -int(rows[i]), int(true[i]), int(predicted[i])) for i in wrong]
        self._errors = nlargest(SHOWN_ERRORS, [*self._errors, *found])

    def details(self, show: Show) -> Mapping[str, Any]:
        """Keys ``labels``, ``confusion`` (rows are true classes), ``classes`` and ``errors``.

        A class that neither occurs nor is predicted has no scores; where one of precision and recall has no samples it is 0.
        """
        true, predicted = np.concatenate(self._true), np.concatenate(self._predicted)
        numbers = range(len(self._names))
        confusion = confusion_matrix(true, predicted, labels=numbers)
        scores = precision_recall_fscore_support(true, predicted, labels=numbers, zero_division=0.0)
        asked = confusion.sum(axis=0)
        classes = [
            {
                "label": name,
                "samples": int(confusion[number].sum()),
                "predicted": int(asked[number]),
                **_scores_of(number, scores, seen=bool(confusion[number].sum() + asked[number])),
            }
            for number, name in enumerate(self._names)
        ]
        return {
            "labels": list(self._names),
            "confusion": confusion.tolist(),
            "classes": classes,
            "errors": [self._error(error, show) for error in self._errors],
        }

    def _error(self, error: tuple[float, int, int, int], show: Show) -> dict[str, Any]:
        probability, row, true, predicted = error
        return {
            "row": -row,
            **show(-row),
            "true": self._names[true],
            "predicted": self._names[predicted],
            "probability": probability,
        }


def _scores_of(number: int, scores: Sequence[np.ndarray], *, seen: bool) -> dict[str, float | None]:
    names = ("precision", "recall", "f1")
    return {name: float(values[number]) if seen else None for name, values in zip(names, scores[:3], strict=True)}
