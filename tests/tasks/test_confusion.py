"""A classifier seen closer, against counts made by hand."""

import numpy as np
import pytest
import torch

from fedfit.tasks.classification import Classification
from fedfit.tasks.confusion import SHOWN_ERRORS

TASK = Classification(("art", "law", "sport", "void"))


def logits(predicted: list[int], confidence: list[float] | None = None) -> torch.Tensor:
    """Logits over four classes that predict ``predicted``, each with the margin of ``confidence``."""
    made = torch.zeros(len(predicted), 4)
    for row, number in enumerate(predicted):
        made[row, number] = 1.0 if confidence is None else confidence[row]
    return made


def test_counts_by_hand() -> None:
    """True 0 0 0 1 1 2, predicted 0 0 1 1 0 1, in two batches.

    Class 0: 3 samples, 3 predicted, 2 right: precision and recall 2/3. Class 1: 2 samples, 3 predicted, 1 right: 1/3, 1/2,
    F1 = 2·(1/6)/(5/6) = 2/5. Class 2: 1 sample, never predicted: all 0. Class 3 neither occurs nor is predicted.
    """
    examiner = TASK.examiner()
    examiner.add(logits([0, 0, 1]), torch.tensor([0, 0, 0]), np.array([0, 1, 2]))
    examiner.add(logits([1, 0, 1]), torch.tensor([1, 1, 2]), np.array([3, 4, 5]))
    found = examiner.details(lambda row: {"text": f"text {row}"})
    assert found["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    scores = [[item[name] for name in ("precision", "recall", "f1")] for item in found["classes"]]
    assert scores == [pytest.approx([2 / 3] * 3), pytest.approx([1 / 3, 1 / 2, 2 / 5]), [0, 0, 0], [None] * 3]
    assert [(item["label"], item["samples"], item["predicted"]) for item in found["classes"]] == [
        ("art", 3, 3), ("law", 2, 3), ("sport", 1, 0), ("void", 0, 0),
    ]  # fmt: skip


def test_the_confident_errors_are_quoted() -> None:
    """30 wrong predictions, each a little more confident than the one before; a right one of the highest confidence."""
    confidence = [0.1 * number for number in range(30)]
    examiner = TASK.examiner()
    for rows in (np.arange(0, 15), np.arange(15, 30)):
        part = [confidence[row] for row in rows]
        examiner.add(logits([1] * 15, [1 + value for value in part]), torch.zeros(15, dtype=torch.int64), rows)
    examiner.add(logits([2], [9.0]), torch.tensor([2]), np.array([30]))
    errors = examiner.details(lambda row: {"text": f"text {row}"})["errors"]
    assert [error["row"] for error in errors] == list(range(29, 29 - SHOWN_ERRORS, -1))
    assert errors[0]["text"] == "text 29"
    assert (errors[0]["true"], errors[0]["predicted"]) == ("art", "law")
    wanted = float(np.exp(1 + 2.9) / (np.exp(1 + 2.9) + 3))
    assert errors[0]["probability"] == pytest.approx(wanted, rel=1e-5)


def test_equally_confident_errors_are_the_same_in_any_batches() -> None:
    answers = []
    for order in (range(40), range(39, -1, -1)):
        examiner = TASK.examiner()
        for row in order:
            examiner.add(logits([1]), torch.tensor([0]), np.array([row]))
        answers.append([error["row"] for error in examiner.details(lambda _: {})["errors"]])
    assert answers[0] == answers[1] == list(range(SHOWN_ERRORS))


def test_it_describes_its_metrics() -> None:
    assert Classification(("a", "b"), ("mcc",)).describe() == {
        "labels": ["a", "b"],
        "metrics": {"mcc": {"higher_is_better": True}, "loss": {"higher_is_better": False}},
    }
