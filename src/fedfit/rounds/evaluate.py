"""Accuracy, macro-F1 and loss of the resident model on a test set."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from fedfit.data.batches import length_sorted_batches
from fedfit.data.tokenize import Samples
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.records import Score

_BATCH_SIZE = 128


@torch.inference_mode()
def evaluate(model: SplitModel, trunk: Trunk, samples: Samples, precision: str = "fp32") -> Score:
    """The model as it is, over all ``samples``."""
    trunk.prepare(samples, range(len(samples)))
    model.train_mode(False)
    classes = int(model.config.num_labels)  # type: ignore[union-attr, arg-type]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    loss = 0.0
    for batch in length_sorted_batches(samples.lengths, _BATCH_SIZE):
        hidden, lengths = trunk.batch(samples, batch)
        labels = torch.from_numpy(samples.labels[batch]).to(model.device)
        with autocast(model.device, precision):
            logits = model.tail(hidden, lengths).float()
        loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
        predicted = logits.argmax(dim=1).cpu().numpy()
        np.add.at(confusion, (samples.labels[batch], predicted), 1)
    return Score(accuracy=float(confusion.trace() / confusion.sum()), macro_f1=macro_f1(confusion), loss=loss / len(samples))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean over classes of ``2·TP / (2·TP + FP + FN)``.

    Args:
        confusion: ``(classes, classes)`` counts, true class by predicted class. A class that is neither there nor
            predicted is left out of the mean.
    """
    hits = np.diag(confusion)
    whole = confusion.sum(axis=0) + confusion.sum(axis=1)
    present = whole > 0
    return float((2 * hits[present] / whole[present]).mean())
