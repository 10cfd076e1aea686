"""The final evaluation of a classifier: confusion matrix, scores of each class, and wrong predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedfit.reports.files import damaged, is_number
from fedfit.reports.labels import MAX_NAMED_CLASSES
from fedfit.reports.read import EVALUATION, RunData
from fedfit.reports.style import FAINT, INK, WIDE_INCHES, blank, plain

MAX_COUNTED_CLASSES = 15
"""With more classes the cells are too small for their counts."""
SCORES = ("precision", "recall", "f1")


def draw_confusion(run: RunData) -> Any:
    """Draw the shares of each true class by predicted class, with counts if they fit; ``None`` without a matrix."""
    found = confusion_of(run)
    if found is None:
        return None
    names, counts = found
    height = min(7.0, max(3.2, 1.6 + 0.34 * len(names)))
    figure, axes = blank((WIDE_INCHES[0], height))
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.grid(False)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    if len(names) <= MAX_NAMED_CLASSES:
        shown = [plain(name, 18) for name in names]
        turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(names) > 6 else {}
        axes.set_xticks(range(len(names)), shown, **turn)
        axes.set_yticks(range(len(names)), shown)
    if len(names) <= MAX_COUNTED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 55 else INK if count else FAINT
            axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour)
    bar = figure.colorbar(image, ax=axes, label="Share of the true class (%)", pad=0.01)
    bar.outline.set_visible(False)
    return figure


def confusion_of(run: RunData) -> tuple[list[str], np.ndarray] | None:
    """Class names and counts ``(true, predicted)``; ``None`` if the evaluation has no matrix.

    Raises:
        RunFolderError: for a malformed matrix.
    """
    evaluation = run.evaluation or {}
    if "confusion" not in evaluation:
        return None
    names, rows = evaluation.get("labels"), evaluation["confusion"]
    if not isinstance(names, list) or not names or not isinstance(rows, list) or len(rows) != len(names):
        raise damaged(str(run.folder / EVALUATION), "`confusion` must have a row for each of `labels`")
    if not all(isinstance(row, list) and len(row) == len(names) and all(map(is_number, row)) for row in rows):
        raise damaged(str(run.folder / EVALUATION), f"each row of `confusion` must have {len(names)} numbers")
    return [str(name) for name in names], np.asarray(rows, dtype=np.float64)


def records_of(run: RunData, key: str) -> list[dict[str, Any]]:
    """The objects under ``key`` of the evaluation (``classes``, ``errors``); an empty list if the key is missing.

    Raises:
        RunFolderError: for anything but a list of objects, or for scores that are neither numbers nor null.
    """
    found = (run.evaluation or {}).get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise damaged(str(run.folder / EVALUATION), f"`{key}` must be a list of objects")
    for item in found:
        for name in (*SCORES, "probability"):
            if item.get(name) is not None and not is_number(item[name]):
                raise damaged(str(run.folder / EVALUATION), f"`{name}` in `{key}` must be a number or null")
    return found
