"""Batches of sample indices. Samples of like length go together, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedfit.randomness import derive_seed

POOL_BATCHES = 16
"""Batches sorted by length together: enough for little padding, few enough to keep the batches random."""


def training_batches(lengths: np.ndarray, batch_size: int, epochs: int, steps: int | None, seed: int) -> list[np.ndarray]:
    """The batches of one device in one round: index arrays, int64, of at most ``batch_size``.

    ``lengths`` is ``(samples,)`` in tokens. Each epoch has every sample exactly once, the last batch perhaps smaller.
    ``steps`` gives exactly that many batches, over as many epochs as they need; ``epochs`` is then not read. No samples,
    no batches. A pure function of its arguments.
    """
    if len(lengths) == 0:
        return []
    batches: list[np.ndarray] = []
    epoch = 0
    while len(batches) < steps if steps is not None else epoch < epochs:
        batches.extend(_epoch_batches(lengths, batch_size, np.random.default_rng(derive_seed(seed, "epoch", epoch))))
        epoch += 1
    return batches[:steps]


def length_sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Every index once, shortest samples first, ties in their order: for evaluation, where order does not matter."""
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    return list(_cut(order, batch_size))


def _epoch_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    batches: list[np.ndarray] = []
    for pool in _cut(rng.permutation(len(lengths)), POOL_BATCHES * batch_size):
        batches.extend(_cut(pool[np.argsort(lengths[pool], kind="stable")], batch_size))
    return [batches[position] for position in rng.permutation(len(batches))]


def _cut(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
