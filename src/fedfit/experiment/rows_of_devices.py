"""The samples of each set, and each device's rows for training, for a method's fusion, and for its own test."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedfit.core.task import Encoded, Task
from fedfit.data.corpus import Corpus, TextSet
from fedfit.data.tokenize import Samples
from fedfit.errors import DataError, Fault, RecipeError, choose
from fedfit.randomness import derive_seed
from fedfit.settings import EvaluationSettings, FederationSettings

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


def check_holders(held: Sequence[np.ndarray], federation: FederationSettings) -> None:
    """Sees that there are devices with samples to be drawn.

    Raises:
        RecipeError: when fewer hold a sample than a round asks for, or none of them joins in the first round.
    """
    holders, joins = sum(len(part) > 0 for part in held), federation.joins
    if holders < federation.devices_per_round:
        remedy = f"only {holders} of {federation.devices} devices hold a sample after the partition; lower it, or skew less"
        raise RecipeError([Fault("federation.devices_per_round", federation.devices_per_round, remedy)])
    if joins is not None and not any(len(part) and join == 1 for part, join in zip(held, joins, strict=True)):
        remedy = "no device that holds a sample joins in round 1; let one, or skew less"
        raise RecipeError([Fault("federation.joins", list(joins), remedy)])


def device_tests(
    held: Sequence[np.ndarray], texts: TextSet, settings: EvaluationSettings, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each device's rows for training, and those of its own test.

    Raises:
        DataError: for a column that the data lack.
    """
    name, share = settings.device_test_column, settings.device_test_share
    if name is None or not share:
        return set_apart(held, share, seed)
    if name not in texts.columns:
        known = sorted(texts.columns)
        raise DataError(f"evaluation.device_test_column = {name!r}: no such column; {choose(name, known)}")
    return set_values_apart(held, texts.columns[name], share, seed)


def rows_of_others(tests: Sequence[np.ndarray], count: int, seed: int) -> list[np.ndarray]:
    """For each device ``count`` rows of the other devices' tests, or all where there are fewer, sorted; nothing for none."""
    found = []
    for device in range(len(tests)) if count else ():
        rest = np.concatenate([np.zeros(0, dtype=np.int64), *tests[:device], *tests[device + 1 :]])
        drawn = np.random.default_rng(derive_seed(seed, "others", device)).permutation(np.sort(rest))[:count]
        found.append(np.sort(drawn))
    return found


def set_values_apart(
    held: Sequence[np.ndarray], values: Sequence[str], share: float, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each device's rows for training, and those of the test, sorted: a value of ``values`` is in one of both on all devices.

    Values are drawn one after another for the test, until they come to ``share`` of all samples; one that would take more than
    is left by half of itself is passed over. A device all of whose values were drawn has neither: what it trained on would be
    others' test.
    """
    counts = Counter(values[row] for rows in held for row in rows)
    order = np.random.default_rng(derive_seed(seed, "device test values")).permutation(sorted(counts))
    left, drawn = share * counts.total(), set[str]()
    for value in map(str, order):
        if left > 0 and counts[value] / 2 <= left:
            drawn.add(value)
            left -= counts[value]
    train, tests = [], []
    for device, rows in enumerate(held):
        apart = np.array([values[row] in drawn for row in rows], dtype=bool)
        if len(rows) and apart.all():
            log.warning("device %d has samples of the test's values alone; it takes no part", device)
            rows, apart = rows[:0], apart[:0]
        tests.append(np.sort(rows[apart]))
        train.append(np.sort(rows[~apart]))
    return train, tests


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
