"""Classification: one class a text, read at one token; cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score, matthews_corrcoef, precision_score, recall_score
from torch import Tensor
from torch.nn import functional

from fedfit.core.task import Encoded, Examiner, Metric, Score, Scorer
from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import Samples, tokenize
from fedfit.errors import DataError, choose
from fedfit.tasks.confusion import ClassExaminer


def _balanced_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """The mean recall of the classes that occur; ``balanced_accuracy_score`` warns of a predicted class that does not."""
    return float(recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0.0))


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {
        "accuracy": lambda true, predicted: float(np.count_nonzero(true == predicted) / len(true)),
        "macro_f1": lambda true, predicted: float(f1_score(true, predicted, average="macro", zero_division=0.0)),
        "weighted_f1": lambda true, predicted: float(f1_score(true, predicted, average="weighted", zero_division=0.0)),
        "balanced_accuracy": _balanced_accuracy,
        "mcc": lambda true, predicted: float(matthews_corrcoef(true, predicted)),
    }
)
"""Metrics of true and predicted classes, ``(samples,)`` each, by the names of ``task.metrics``; scikit-learn's definitions."""


OF_ONE_CLASS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = MappingProxyType(
    {
        "f1": lambda true, predicted: float(f1_score(true, predicted, zero_division=1.0)),
        "precision": lambda true, predicted: float(precision_score(true, predicted, zero_division=1.0)),
        "recall": lambda true, predicted: float(recall_score(true, predicted, zero_division=1.0)),
    }
)
"""Metrics of the class ``task.positive`` alone, from two boolean arrays. Samples without it, of which none is predicted to
have it, count 1: nothing was missed."""


DEFAULTS = ("accuracy", "macro_f1")
"""The metrics of a recipe that names none."""


@dataclass(frozen=True)
class Classification:
    """One of ``label_names`` for each text.

    Args:
        metrics: names of ``METRICS`` and ``OF_ONE_CLASS``; ``loss``, the mean cross-entropy in nats a sample, is always
            measured.
        positive: the class that those of ``OF_ONE_CLASS`` are of.

    Raises:
        DataError: when ``positive`` is none of ``label_names``.
    """

    label_names: tuple[str, ...]
    metrics: Sequence[str] = DEFAULTS
    positive: str | None = None
    name: str = "classification"
    reference: None = None
    answers: None = None

    def __post_init__(self) -> None:
        if self.positive is not None and self.positive not in self.label_names:
            raise DataError(
                f"task.positive = {self.positive!r}: the data have no such class; {choose(self.positive, self.label_names)}"
            )

    @property
    def headline(self) -> str:
        """The first metric."""
        return self.metrics[0] if self.metrics else "loss"

    @property
    def outputs(self) -> int:
        """A logit a class."""
        return len(self.label_names)

    def encode(self, texts: TextSet, tokenizer: Any, max_tokens: int) -> Encoded:
        """Every text, cut to ``max_tokens``."""
        return Encoded(tokenize(texts, tokenizer, max_tokens), np.arange(len(texts)))

    def positions(self, targets: Tensor) -> Tensor | None:
        """The token that the family's classifier reads: the first of an encoder, the last of a decoder."""
        return None

    def reads(self, samples: Samples) -> np.ndarray:
        """One position a sample."""
        return np.ones(len(samples), dtype=np.int64)

    def scorers(self, samples: Samples) -> list[tuple[Samples, Scorer]]:
        """``scorer`` over the samples themselves."""
        return [(samples, self.scorer())]

    def collate(self, samples: Samples, rows: np.ndarray, device: torch.device) -> Tensor:
        """Class numbers ``(batch,)``, int64."""
        return torch.from_numpy(samples.classes[rows]).to(device)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits ``(batch, classes)``, in float32."""
        return functional.cross_entropy(output.float(), targets)

    def scorer(self) -> Scorer:
        """A scorer of accuracy and its like."""
        return ClassScorer(self.metrics, None if self.positive is None else self.label_names.index(self.positive))

    def examiner(self) -> Examiner:
        """A gatherer of the confusion matrix and of wrong predictions."""
        return ClassExaminer(self.label_names)

    def describe(self) -> Mapping[str, Any]:
        """The classes, and the direction of each metric."""
        directions = {**dict.fromkeys(self.metrics, True), "loss": False}
        metrics = {name: {"higher_is_better": higher} for name, higher in directions.items()}
        return {"labels": list(self.label_names), "metrics": metrics}


class ClassScorer:
    """Gathers classes, true and predicted, and the cross-entropy; ``positive`` is the number of the class by itself."""

    def __init__(self, metrics: Sequence[str], positive: int | None = None) -> None:
        self._metrics, self._positive = metrics, positive
        self._true: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        self._loss = 0.0

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Logits ``(batch, classes)`` and class numbers ``(batch,)``."""
        logits = output.float()
        self._loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
        self._true.append(targets.cpu().numpy())
        self._predicted.append(logits.argmax(dim=1).cpu().numpy())

    def score(self) -> Score:
        """The metrics over all samples."""
        true, predicted = np.concatenate(self._true), np.concatenate(self._predicted)
        found = {
            name: Metric(
                METRICS[name](true, predicted)
                if name in METRICS
                else OF_ONE_CLASS[name](true == self._positive, predicted == self._positive)
            )
            for name in self._metrics
        }
        return {**found, "loss": Metric(self._loss / len(true), higher_is_better=False)}
