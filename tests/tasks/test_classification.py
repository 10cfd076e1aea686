"""Classification: its loss, its metrics by hand and by scikit-learn, and what it reads of a sample."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional

from fedfit.core.task import Score
from fedfit.errors import DataError
from fedfit.settings import Recipe
from fedfit.tasks.classification import METRICS, OF_ONE_CLASS, Classification
from fedfit.tasks.table import task_entry
from tests.builders import random_samples

NAMES = ("art", "law", "sport")


def scored(true: np.ndarray, predicted: np.ndarray, batch: int = 7) -> Score:
    """The score of predictions that are sure of themselves, gathered batch by batch."""
    classes = int(max(true.max(), predicted.max())) + 1
    scorer = Classification(tuple(map(str, range(classes))), tuple(METRICS)).scorer()
    logits = 5 * functional.one_hot(torch.from_numpy(predicted), classes).float()
    for start in range(0, len(true), batch):
        scorer.add(logits[start : start + batch], torch.from_numpy(true[start : start + batch]))
    return scorer.score()


def labels(confusion: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes with these counts, ``confusion[true][predicted]``."""
    cells = [(t, p) for t, row in enumerate(confusion) for p, count in enumerate(row) for _ in range(count)]
    true, predicted = np.array(cells).T
    return true, predicted


def test_metrics_by_hand() -> None:
    """Of 16 samples 12 are right. Class 0: 5 of 6 true, 7 predicted, F1 = 2·5/(6 + 7); class 1: 3 of 6, 4 predicted,
    F1 = 2·3/(6 + 4); class 2: 4 of 4, 5 predicted, F1 = 2·4/(4 + 5).

    Matthews: (16·12 − (6·7 + 6·4 + 4·5)) / √((16² − 7² − 4² − 5²)(16² − 6² − 6² − 4²)) = (192 − 86)/√(166·168).
    """
    score = scored(*labels([[5, 1, 0], [2, 3, 1], [0, 0, 4]]))
    f1 = [10 / 13, 6 / 10, 8 / 9]
    assert score["accuracy"].value == 12 / 16
    assert score["macro_f1"].value == pytest.approx(sum(f1) / 3, rel=1e-12)
    assert score["weighted_f1"].value == pytest.approx((6 * f1[0] + 6 * f1[1] + 4 * f1[2]) / 16, rel=1e-12)
    assert score["balanced_accuracy"].value == pytest.approx((5 / 6 + 3 / 6 + 4 / 4) / 3, rel=1e-12)
    assert score["mcc"].value == pytest.approx(106 / (166 * 168) ** 0.5, rel=1e-12)


def test_a_class_that_is_nowhere_does_not_count_and_one_that_is_missed_counts_zero() -> None:
    assert scored(*labels([[4, 0, 0], [0, 2, 0], [0, 0, 0]]))["macro_f1"].value == 1.0
    # Class 1 is there and never right: 0; class 0 is 2·4/(4 + 6).
    assert scored(*labels([[4, 0], [2, 0]]))["macro_f1"].value == pytest.approx((0.8 + 0) / 2)
    assert scored(*labels([[4, 2], [0, 0]]))["macro_f1"].value == pytest.approx((0.8 + 0) / 2)  # predicted, though nowhere


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_macro_f1_by_its_definition(classes: int) -> None:
    """The harmonic mean of precision and recall, class by class, from lists of labels."""
    rng = np.random.default_rng(classes)
    true, predicted = rng.integers(0, classes, 50), rng.integers(0, classes, 50)
    scores = []
    for label in range(classes):
        both = sum(t == label == g for t, g in zip(true, predicted, strict=True))
        precision, recall = both / sum(predicted == label), both / sum(true == label)
        scores.append(2 * precision * recall / (precision + recall) if both else 0.0)
    assert scored(true, predicted)["macro_f1"].value == pytest.approx(np.mean(scores), rel=1e-12)


SKLEARN: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": metrics.accuracy_score,
    "macro_f1": lambda true, predicted: metrics.f1_score(true, predicted, average="macro"),
    "weighted_f1": lambda true, predicted: metrics.f1_score(true, predicted, average="weighted"),
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "mcc": metrics.matthews_corrcoef,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("classes", [2, 5])
def test_every_metric_is_scikit_learns(name: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    true = rng.integers(0, classes, 200)
    predicted = np.where(rng.random(200) < 0.6, true, rng.integers(0, classes, 200))
    found = scored(true, predicted)[name]
    assert found.value == pytest.approx(SKLEARN[name](true, predicted), rel=1e-12)
    assert found.higher_is_better
    assert 0 < found.value < 1


def of_one_class(true: list[int], predicted: list[int], positive: str) -> tuple[float, float, float]:
    """F1, precision and recall of ``positive``, one of three classes."""
    scorer = Classification(NAMES, tuple(OF_ONE_CLASS), positive).scorer()
    scorer.add(functional.one_hot(torch.tensor(predicted), 3).float(), torch.tensor(true))
    score = scorer.score()
    return score["f1"].value, score["precision"].value, score["recall"].value


@pytest.mark.filterwarnings("error")
def test_metrics_of_one_class_by_hand() -> None:
    """Of "law", number 1: 2 of 3 are found, and 2 of 4 predictions are right; F1 = 2·2/(3 + 4)."""
    true, predicted = [1, 1, 1, 0, 2, 0], [1, 1, 0, 1, 1, 2]
    assert of_one_class(true, predicted, "law") == pytest.approx((4 / 7, 2 / 4, 2 / 3))
    assert of_one_class([0, 2], [0, 0], "law") == (1.0, 1.0, 1.0), "none is there, and none was predicted"
    assert of_one_class([0, 2], [1, 0], "law") == pytest.approx((0.0, 0.0, 1.0))
    assert of_one_class([0, 1], [0, 0], "law") == pytest.approx((0.0, 1.0, 0.0))


def test_the_class_must_exist() -> None:
    with pytest.raises(DataError, match=r"task.positive = 'lwa': the data have no such class; did you mean 'law'"):
        Classification(NAMES, ("f1",), "lwa")


@pytest.mark.filterwarnings("error")
def test_a_class_predicted_that_no_row_has_neither_warns_nor_counts() -> None:
    """Recalls of the two classes that occur: 1/2 and 1/1."""
    true, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert scored(true, predicted)["balanced_accuracy"].value == pytest.approx(0.75, rel=1e-12)


def test_batches_change_no_metric() -> None:
    """The score is over all samples, not a mean over batches: the last batch is a short one."""
    rng = np.random.default_rng(0)
    true, logits = torch.from_numpy(rng.integers(0, 3, 50)), torch.from_numpy(rng.normal(size=(50, 3)))
    scores = []
    for size in (50, 16, 1):
        scorer = Classification(NAMES).scorer()
        for start in range(0, 50, size):
            scorer.add(logits[start : start + size], true[start : start + size])
        scores.append(scorer.score())
    loss = float(functional.cross_entropy(logits, true))
    for score in scores:
        assert score["accuracy"] == scores[0]["accuracy"]
        assert score["loss"].value == pytest.approx(loss, rel=1e-6)
        assert not score["loss"].higher_is_better


def test_the_loss_is_the_mean_cross_entropy() -> None:
    """By its definition, ``−log p`` of the true class; the gradient is ``(p − 1[true]) / batch``."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float32, requires_grad=True)
    targets = torch.tensor([0, 2, 1, 1, 0, 2])
    loss = Classification(NAMES).loss(logits, targets)
    probabilities = logits.detach().double().exp() / logits.detach().double().exp().sum(dim=1, keepdim=True)
    expected = -probabilities[torch.arange(6), targets].log().mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    slopes = (probabilities - functional.one_hot(targets, 3)) / 6
    torch.testing.assert_close(gradient.double(), slopes, rtol=1e-5, atol=1e-7)


def test_the_loss_of_half_precision_is_computed_in_float32() -> None:
    logits = torch.tensor([[12.0, -3.0, 0.1]], dtype=torch.bfloat16)
    loss = Classification(NAMES).loss(logits, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, functional.cross_entropy(logits.float(), torch.tensor([1])))


def test_targets_are_the_labels_of_the_rows() -> None:
    samples, rows = random_samples(9, seed=4), np.array([8, 0, 3])
    targets = Classification(NAMES).collate(samples, rows, torch.device("cpu"))
    assert targets.dtype == torch.int64
    assert targets.tolist() == [samples.classes[row] for row in rows]


def test_what_others_ask_of_a_task() -> None:
    task = Classification(NAMES, ("mcc", "accuracy"))
    assert (task.name, task.outputs, task.headline) == ("classification", 3, "mcc")
    assert task.positions(torch.tensor([4, 2])) is None, "the family says which token its classifier reads"
    assert task.reads(random_samples(5)).tolist() == [1] * 5
    assert (task.reference, task.answers) == (None, None), "a class needs no reference model, and is no text"
    assert Classification(NAMES, ()).headline == "loss"


def test_the_recipe_names_the_metrics_and_the_loss_is_always_measured() -> None:
    settings = Recipe().task
    assert task_entry(settings.kind).metrics == (*METRICS, *OF_ONE_CLASS)
    scorer = Classification(NAMES, ("mcc",)).scorer()
    scorer.add(torch.eye(3), torch.tensor([0, 1, 2]))
    assert scorer.score().keys() == {"mcc", "loss"}
    assert scorer.score()["mcc"].value == 1.0
