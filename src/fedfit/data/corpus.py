"""The texts of a run, and the class-balanced subsets drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedfit.errors import DataError
from fedfit.randomness import derive_seed

CHOICE_SIGN = "/"
"""Divides a row's own possible answers in the field ``choices``."""


@dataclass(frozen=True)
class TextSet:
    """Texts by the roles that a task gives them.

    ``fields`` holds the texts by role, of equal length: ``text`` and perhaps ``pair`` (the second sentence), or ``prompt`` and
    ``response``, perhaps with ``answer`` and the row's own ``choices`` of one. ``labels`` is int64 ``(samples,)``, an index
    into ``Corpus.label_names``, or ``None`` without classes.
    ``columns`` holds the source's other columns, for a partition ``by_column``.
    """

    fields: Mapping[str, Sequence[str]]
    labels: np.ndarray | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @property
    def classes(self) -> np.ndarray:
        """The labels of samples that have some, int64 ``(samples,)``."""
        assert self.labels is not None, "these samples have no classes"
        return self.labels

    def select(self, indices: Sequence[int] | np.ndarray) -> TextSet:
        """The samples at ``indices``, in that order."""
        chosen = [int(index) for index in indices]
        fields, columns = (
            {name: [values[index] for index in chosen] for name, values in these.items()}
            for these in (self.fields, self.columns)
        )
        labels = None if self.labels is None else self.labels[np.asarray(chosen, dtype=np.int64)]
        return TextSet(fields, labels, columns)


@dataclass(frozen=True)
class Corpus:
    """A training and a test set over the same classes; class ``i`` is called ``label_names[i]``.

    ``validation`` is absent unless the recipe asks for it: samples that a run may decide by, and that devices never train on.
    ``choices`` are the exact answers that a row is scored over, where rows have one; a row with a field ``choices`` is scored
    over those of them.
    """

    train: TextSet
    test: TextSet
    label_names: tuple[str, ...] = ()
    validation: TextSet | None = None
    choices: tuple[str, ...] = ()


def random_subset(size: int, samples: int, seed: int, key: str = "data.train_samples") -> np.ndarray:
    """Indices, sorted, of ``samples`` of ``size`` samples. Raises ``DataError``, naming ``key``, for more than there are."""
    return balanced_subset(np.zeros(size, dtype=np.int64), samples, seed, key)


def balanced_subset(labels: np.ndarray, samples: int, seed: int, key: str = "data.train_samples") -> np.ndarray:
    """Indices, sorted, of ``samples`` samples drawn as equally from each class as the classes allow.

    A class with too few gives all it has, and the others share the rest. ``labels`` is ``(samples,)``; the same
    arguments give the same indices. Raises ``DataError``, naming ``key``, for more samples than the set has.
    """
    if samples > len(labels):
        raise DataError(f"{key} = {samples}: there are only {len(labels)} samples; ask for at most that many or leave it out")
    classes, counts = np.unique(labels, return_counts=True)
    rng = np.random.default_rng(derive_seed(seed, "balanced_subset"))
    parts = [np.empty(0, dtype=np.int64)]
    for label, quota in zip(classes, _equal_quotas(counts, samples), strict=True):
        parts.append(rng.permutation(np.flatnonzero(labels == label))[:quota])
    return np.sort(np.concatenate(parts))


def stratified_split(
    labels: np.ndarray, share: float, seed: int, key: str = "data.validation_share"
) -> tuple[np.ndarray, np.ndarray]:
    """Indices, sorted, of the samples that are split off and of those that stay; each class gives ``share`` of its samples.

    Fractions are rounded so that the total is right, and every class keeps at least one sample. ``labels`` is ``(samples,)``;
    the same arguments give the same indices. Raises ``DataError``, naming ``key``, for a share that comes to no sample.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = _proportional_quotas(counts, share)
    if not quotas.sum():
        raise DataError(
            f"{key} = {share}: of {len(labels)} samples in {len(classes)} classes that is none; take a larger share"
        )
    rng = np.random.default_rng(derive_seed(seed, "stratified_split"))
    split = np.zeros(len(labels), dtype=bool)
    for label, quota in zip(classes, quotas, strict=True):
        split[rng.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return np.flatnonzero(split), np.flatnonzero(~split)


def _proportional_quotas(counts: np.ndarray, share: float) -> np.ndarray:
    """Samples to take of each class: whole parts first, then one more for the largest fractions."""
    exact = counts * share
    quotas = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    limited: np.ndarray = np.minimum(quotas, counts - 1)
    return limited


def _equal_quotas(counts: np.ndarray, samples: int) -> np.ndarray:
    """Samples to take of each class: from the rarest up, each gets an equal share of the remaining number."""
    quotas = np.zeros(len(counts), dtype=np.int64)
    remaining = samples
    for position, index in enumerate(np.argsort(counts, kind="stable")):
        quotas[index] = min(int(counts[index]), remaining // (len(counts) - position))
        remaining -= int(quotas[index])
    return quotas
