"""The samples of each set, and each device's rows for training, for a method's fusion, and for its own test."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedfit.core.task import Encoded, Task
from fedfit.data.corpus import Corpus
from fedfit.data.tokenize import Samples
from fedfit.randomness import derive_seed

log = logging.getLogger(__name__)


def encode(task: Task, corpus: Corpus, tokenizer: Any, max_tokens: int) -> tuple[Corpus, dict[str, Samples]]:
    """The samples of each set of ``corpus``, by name, and the corpus with the rows behind them; rows left out are reported."""
    texts = {"train": corpus.train, "test": corpus.test, "validation": corpus.validation}
    encoded: dict[str, Encoded] = {}
    for name, part in texts.items():
        if part is not None:
            encoded[name] = task.encode(part, tokenizer, max_tokens)
            for note in encoded[name].notes:
                log.warning("%s samples: %s", name, note)
    kept: dict[str, Any] = {name: texts[name].select(found.kept) for name, found in encoded.items()}  # type: ignore[union-attr]
    return dataclasses.replace(corpus, **kept), {name: found.samples for name, found in encoded.items()}


def set_apart(
    held: Sequence[np.ndarray], share: float, seed: int, what: str = "device test", at_least: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each device's rows for training, and those set apart, both sorted; a device with one sample trains on it.

    Args:
        what: the use of those set apart, in the seed of the draw.
        at_least: rows to be set apart where ``share`` is above 0, from as many and one.
    """
    train, tests = [], []
    for device, rows in enumerate(held):
        wanted = max(round(share * len(rows)), at_least if share else 0)
        count = min(wanted, len(rows) - 1) if len(rows) else 0
        order = np.random.default_rng(derive_seed(seed, what, device)).permutation(rows) if count else rows
        tests.append(np.sort(order[:count]))
        train.append(np.sort(order[count:]))
    return train, tests
