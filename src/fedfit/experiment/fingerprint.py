"""What a run began from, and which of it has changed when the run is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xxhash

from fedfit.data.tokenize import Samples
from fedfit.experiment.tables import flat, to_plain
from fedfit.models.digest import config_facts, frozen_digest
from fedfit.models.split import SplitModel
from fedfit.settings import Recipe
from fedfit.tracking.needs import Fingerprint

FREE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "name": "names the run",
        "data.train": "the samples themselves are compared, wherever they lie",
        "data.test": "the samples themselves are compared, wherever they lie",
        "data.validation": "the samples themselves are compared, wherever they lie",
        "model.name": "the weights themselves are compared, wherever they lie",
        "trunk_cache.folder": "where outputs of the trunk are kept; the bits are the same with any cache",
        "trunk_cache.max_gigabytes": "how many of them are kept",
        "training.patience": "only says when to stop",
        "training.target_accuracy": "only says when to stop",
        "federation.max_failed_rounds": "only says when to stop",
        "federation.rounds": "only says when to stop, where the learning rate is constant",
        "tracking.sinks": "where the numbers are written to as well",
    }
)
"""The keys of a recipe that may change between the rounds of one run, and why. All others decide what a round computes."""

_UNSET = "unset"


def fingerprint(recipe: Recipe, partition: Mapping[str, Any], model: SplitModel) -> Fingerprint:
    """The fingerprint of a run that was just built, before anything is trained.

    ``partition`` are the facts of ``partition.json``, which hold a digest of the samples.
    """
    weights = [frozen_digest(model.base), config_facts(model.config)]
    return Fingerprint(values_by_key(recipe), _digest(partition), _digest(weights))


def values_by_key(recipe: Recipe) -> dict[str, Any]:
    """Every key that is set, ``section.key``, with its value as TOML has it."""
    return {key: value for key, value in flat(to_plain(recipe)) if value != []}


def with_later_keys(written: Mapping[str, Any]) -> dict[str, Any]:
    """``written`` values by key, with those keys that did not exist when they were written, at their defaults."""
    return {**values_by_key(Recipe()), **written}


def data_digest(sets: Sequence[Samples], parts: Sequence[np.ndarray]) -> str:
    """32 hex digits that change when a sample, a label, their order, or a device's share does."""
    made = hashlib.blake2b(digest_size=16)
    for samples in sets:
        for sample in samples.hashes:
            made.update(sample)
        if samples.labels is not None:
            made.update(samples.labels.tobytes())
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(np.asarray(part, dtype=np.int64).tobytes())
    return made.hexdigest()


def changed_keys(before: Fingerprint, recipe: Recipe) -> list[str]:
    """What ``recipe`` says otherwise than when the run began, in words, a line a key. Keys that may change are left out."""
    began, now = with_later_keys(before.recipe), with_later_keys(values_by_key(recipe))
    free = set(FREE_KEYS) - (set() if _constant_rate(began) else {"federation.rounds"})
    keys = [key for key in {**began, **now} if began.get(key, _UNSET) != now.get(key, _UNSET) and key not in free]
    return [f"{key}: {began.get(key, _UNSET)} when the run began, {now.get(key, _UNSET)} now" for key in keys]


def changed_contents(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Which of data and weights are not those that the run began with, in words."""
    found = []
    if before.data != now.data:
        found.append("the data, their labels or their partition are not those that the run began with")
    if before.weights != now.weights:
        found.append(f"the weights of the model {now.recipe['model.name']!r} are not those that the run began with")
    return found


def _constant_rate(recipe: Mapping[str, Any]) -> bool:
    """Whether the learning rate is the same in every round: warm-up and decay stretch over all rounds."""
    return recipe["training.schedule"] == "constant" and not recipe["training.warmup"]


def _digest(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
