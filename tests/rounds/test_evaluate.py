from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedfit.rounds.evaluate import evaluate, macro_f1
from tests.builders import CLASSES, padded_batch, random_samples, tiny_split, tiny_trunk


def test_macro_f1_by_hand() -> None:
    # Class 0: 5 right of 6 true and 7 predicted, 2·5/(6 + 7); class 1: 2·3/(6 + 4); class 2: 2·4/(4 + 5).
    confusion = np.array([[5, 1, 0], [2, 3, 1], [0, 0, 4]])
    assert macro_f1(confusion) == pytest.approx((10 / 13 + 6 / 10 + 8 / 9) / 3, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_macro_f1_by_its_definition(classes: int) -> None:
    """The harmonic mean of precision and recall, class by class, from lists of labels."""
    rng = np.random.default_rng(classes)
    true, predicted = rng.integers(0, classes, 50), rng.integers(0, classes, 50)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    scores = []
    for truth, guess in zip(true, predicted, strict=True):
        confusion[truth, guess] += 1
    for label in range(classes):
        both = sum(t == label == g for t, g in zip(true, predicted, strict=True))
        precision, recall = both / sum(predicted == label), both / sum(true == label)
        scores.append(2 * precision * recall / (precision + recall) if both else 0.0)
    assert macro_f1(confusion) == pytest.approx(np.mean(scores), rel=1e-12)


def test_a_class_that_is_nowhere_does_not_count_and_one_that_is_missed_counts_zero() -> None:
    assert macro_f1(np.array([[4, 0, 0], [0, 2, 0], [0, 0, 0]])) == 1.0
    # Class 1 is there and never right: 0; class 0 is 2·4/(4 + 6).
    assert macro_f1(np.array([[4, 0], [2, 0]])) == pytest.approx((0.8 + 0) / 2)
    assert macro_f1(np.array([[4, 2], [0, 0]])) == pytest.approx((0.8 + 0) / 2)  # predicted, though nowhere


def test_the_score_is_that_of_each_sample_alone(tiny_bert: Path, tmp_path: Path) -> None:
    """Of 150 samples, more than a batch holds, against the whole model one by one."""
    samples, split = random_samples(150, seed=8), tiny_split(tiny_bert)
    split.train_mode(True, base_dropout=True)
    score = evaluate(split, tiny_trunk(split, tmp_path), samples)
    right, loss = 0, 0.0
    with torch.no_grad():
        for row in range(len(samples)):
            ids, mask, _ = padded_batch(samples, [row])
            logits = split.model(input_ids=ids, attention_mask=mask).logits
            right += int(logits.argmax()) == samples.labels[row]
            loss += float(functional.cross_entropy(logits, torch.tensor([samples.labels[row]])))
    assert score.accuracy == right / 150
    assert score.loss == pytest.approx(loss / 150, rel=1e-5)
    assert 0 < score.macro_f1 <= 1
    assert CLASSES == 3
