"""The texts of a run: what a data source hands over, and the class-balanced subsets drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedfit.errors import DataError
from fedfit.randomness import derive_seed


@dataclass(frozen=True)
class LabelledTexts:
    """A set as its source has it, labels still being names. ``origin`` names the file or split in error messages."""

    origin: str
    texts: Sequence[str]
    labels: Sequence[str]
    pairs: Sequence[str] | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class TextSet:
    """Texts with class numbers.

    ``labels`` is int64 ``(samples,)``, an index into ``Corpus.label_names``; ``pairs`` holds the second sentences of a
    sentence-pair task; ``columns`` holds the source's other columns, for a partition ``by_column``.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: np.ndarray
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Sequence[int] | np.ndarray) -> TextSet:
        """The samples at ``indices``, in that order."""
        chosen = [int(index) for index in indices]
        return TextSet(
            texts=[self.texts[index] for index in chosen],
            pairs=None if self.pairs is None else [self.pairs[index] for index in chosen],
            labels=self.labels[np.asarray(chosen, dtype=np.int64)],
            columns={name: [values[index] for index in chosen] for name, values in self.columns.items()},
        )


@dataclass(frozen=True)
class Corpus:
    """A training and a test set over the same classes; class ``i`` is called ``label_names[i]``."""

    train: TextSet
    test: TextSet
    label_names: tuple[str, ...]


def build_corpus(train: LabelledTexts, test: LabelledTexts) -> Corpus:
    """Number the classes by the sorted label names of the training set.

    Raises ``DataError`` for a set without rows, for a single class, and for a test label that training never shows.
    """
    for part, key in ((train, "data.train"), (test, "data.test")):
        if not part.texts:
            raise DataError(f"{part.origin} has no rows ({key}): name a file or split that has some")
    names = sort_label_names(train.labels)
    if len(names) < 2:
        raise DataError(
            f"{train.origin} has one class only, {names[0]!r} (data.label): "
            "a classifier needs at least two; check that data.label names the right column"
        )
    return Corpus(_number(train, names), _number(test, names), names)


def sort_label_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels: by value when all are whole numbers, so that 10 follows 9, and as strings otherwise."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(distinct))


def balanced_subset(labels: np.ndarray, samples: int, seed: int, key: str = "data.train_samples") -> np.ndarray:
    """Indices, sorted, of ``samples`` samples drawn with as equal a number from each class as there are.

    A class with too few gives all it has, and the others share the rest. ``labels`` is ``(samples,)``; the same
    arguments give the same indices. Raises ``DataError``, naming ``key``, when more is asked for than there is.
    """
    if samples > len(labels):
        raise DataError(f"{key} = {samples}: there are only {len(labels)} samples; ask for at most that many or leave it out")
    classes, counts = np.unique(labels, return_counts=True)
    rng = np.random.default_rng(derive_seed(seed, "balanced_subset"))
    parts = [np.empty(0, dtype=np.int64)]
    for label, quota in zip(classes, _equal_quotas(counts, samples), strict=True):
        parts.append(rng.permutation(np.flatnonzero(labels == label))[:quota])
    return np.sort(np.concatenate(parts))


def _equal_quotas(counts: np.ndarray, samples: int) -> np.ndarray:
    """How many to take of each class: from the rarest up, each gets an equal share of what is still to be given."""
    quotas = np.zeros(len(counts), dtype=np.int64)
    remaining = samples
    for position, index in enumerate(np.argsort(counts, kind="stable")):
        quotas[index] = min(int(counts[index]), remaining // (len(counts) - position))
        remaining -= int(quotas[index])
    return quotas


def _number(part: LabelledTexts, names: tuple[str, ...]) -> TextSet:
    numbers = {name: number for number, name in enumerate(names)}
    unknown = sorted(set(part.labels) - set(names))
    if unknown:
        row = list(part.labels).index(unknown[0]) + 1
        raise DataError(
            f"{part.origin} has the label {unknown[0]!r} (row {row}), which the training set does not have "
            f"(it has {', '.join(map(repr, names[:20]))}): add training samples of it, or take those rows out"
        )
    labels = np.array([numbers[label] for label in part.labels], dtype=np.int64)
    return TextSet(part.texts, part.pairs, labels, part.columns)
