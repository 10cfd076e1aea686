"""Spreads the training samples over the devices, by the rules of flwr-datasets."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedfit.data.corpus import TextSet
from fedfit.data_settings import PartitionSettings
from fedfit.errors import DataError, did_you_mean
from fedfit.randomness import derive_seed

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

_MOST_KINDS = 24


def partition(
    texts: TextSet, settings: PartitionSettings, devices: int, seed: int, devices_per_round: int = 1
) -> list[np.ndarray]:
    """Spread ``texts`` over ``devices``: for each a sorted int64 array of sample indices.

    Every sample goes to exactly one device. A device may get none, with a small Dirichlet alpha. Samples
    are shuffled first, so the order of the source does not matter. Raises ``DataError`` for more devices than
    samples, and for settings that the data cannot meet; the message names ``devices_per_round`` where that must follow.
    """
    if devices > len(texts):
        raise DataError(
            f"federation.devices = {devices}: more than the {len(texts)} training samples; "
            f"take at most {len(texts)} devices or more samples (data.train_samples)"
        )
    order = np.random.default_rng(derive_seed(seed, "partition", "order")).permutation(len(texts))
    rule_seed = derive_seed(seed, "partition", settings.kind)
    if texts.labels is None and settings.kind in ("shards", "dirichlet"):
        raise DataError(
            f'partition.kind = "{settings.kind}" deals by class, and these samples have none; choose iid or by_column'
        )
    if settings.kind == "shards":
        parts = _shards(texts.classes, order, settings.shards_per_device, devices, rule_seed)
    else:
        if settings.kind == "by_column":
            _check_values(texts, settings.column, devices, devices_per_round)
        parts = [order[rows] for rows in _by_rule(texts, order, settings, devices, rule_seed)]
    _check_complete(parts, len(texts), settings)
    return [np.sort(part).astype(np.int64) for part in parts]


def label_counts(parts: list[np.ndarray], labels: np.ndarray, classes: int) -> np.ndarray:
    """Samples of each class on each device, int64 ``(devices, classes)``."""
    counts = [np.bincount(labels[part], minlength=classes) for part in parts]
    return np.array(counts, dtype=np.int64).reshape(len(parts), classes)


def group_counts(
    parts: list[np.ndarray], texts: TextSet, label_names: Sequence[str], column: str | None
) -> tuple[Sequence[str], np.ndarray]:
    """The kinds of samples, and how many of each a device has, int64 ``(devices, kinds)``.

    Kinds are classes; without these the values of the partition's column, the 24 most frequent by themselves; else one for all.
    """
    if texts.labels is not None:
        return label_names, label_counts(parts, texts.labels, len(label_names))
    values = texts.columns.get(column or "")
    if values is None:
        return ["samples"], label_counts(parts, np.zeros(len(texts), dtype=np.int64), 1)
    frequent = [value for value, _ in Counter(values).most_common(_MOST_KINDS)]
    rest = len(set(values)) > len(frequent)
    number = {value: index for index, value in enumerate(frequent)}
    numbers = np.array([number.get(value, len(frequent)) for value in values], dtype=np.int64)
    names = [*frequent, "others"] if rest else frequent
    return names, label_counts(parts, numbers, len(names))


def _by_rule(texts: TextSet, order: np.ndarray, settings: PartitionSettings, devices: int, seed: int) -> list[np.ndarray]:
    """Rows of the shuffled samples for each device."""
    # Here, not above: flwr-datasets takes seconds to load, and batches and tokens do without it.
    from flwr_datasets.partitioner import DirichletPartitioner, GroupedNaturalIdPartitioner, IidPartitioner

    if settings.kind == "iid":
        return _run(IidPartitioner(devices), {}, len(order), devices)
    if settings.kind == "dirichlet":
        rule = DirichletPartitioner(devices, "label", settings.alpha, min_partition_size=0, self_balancing=False, seed=seed)
        return _run(rule, {"label": texts.classes[order]}, len(order), devices)
    if settings.kind == "by_column":
        # Values are grouped into devices beforehand, so that a group of the library is one device.
        column = _device_of_value(texts, settings.column or "", devices)[order]
        rule = GroupedNaturalIdPartitioner("device", group_size=1, sort_unique_ids=True)
        return _run(rule, {"device": column}, len(order), devices)
    raise DataError(f"partition.kind = {settings.kind!r}: choose iid, dirichlet, shards or by_column")


def _run(rule: Partitioner, columns: Mapping[str, np.ndarray], rows: int, devices: int) -> list[np.ndarray]:
    from datasets import Dataset

    rule.dataset = Dataset.from_dict({"row": np.arange(rows), **columns})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pyarrow, about how datasets calls its sort
        return [np.array(rule.load_partition(device)[:]["row"], dtype=np.int64) for device in range(devices)]


def _shards(labels: np.ndarray, order: np.ndarray, per_device: int, devices: int, seed: int) -> list[np.ndarray]:
    """McMahan et al. 2017: sort by label, cut into shards, deal ``per_device`` shards to each device.

    The library's rule cuts shards of one size and drops the remainder. Here it only deals the shards: they are cut
    beforehand into sizes that differ by one at most, without a remainder.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    count = devices * per_device
    if count > len(labels):
        raise DataError(
            f"partition.shards_per_device = {per_device}: {devices} devices need {count} shards, more than "
            f"the {len(labels)} training samples; take fewer devices, fewer shards or more samples"
        )
    shards = np.array_split(order[np.argsort(labels[order], kind="stable")], count)
    rule = ShardPartitioner(devices, "shard", num_shards_per_partition=per_device, shard_size=1, seed=seed)
    dealt = _run(rule, {"shard": np.arange(count)}, count, devices)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]


def _check_values(texts: TextSet, column: str | None, devices: int, devices_per_round: int) -> None:
    """Raises ``DataError`` for a column that does not exist, or that has fewer values than there are devices."""
    if column is None or column not in texts.columns:
        names = ", ".join(sorted(texts.columns)) or "none"
        guess = did_you_mean(column, texts.columns) if column else ""
        raise DataError(f"partition.column = {column!r}: the data set has no such column; {guess}it has: {names}")
    count = len({str(value) for value in texts.columns[column]})
    if count < devices:
        both = f" and federation.devices_per_round (now {devices_per_round}) no higher" if devices_per_round > count else ""
        raise DataError(
            f"federation.devices = {devices}: partition.column = {column!r} has only {count} values; "
            f"set federation.devices = {count} or less{both}"
        )


def _device_of_value(texts: TextSet, column: str, devices: int) -> np.ndarray:
    """Device of every sample: the values of ``column``, most frequent first, are dealt to the devices in turn."""
    values, inverse, counts = np.unique(
        np.array([str(value) for value in texts.columns[column]], dtype=object), return_inverse=True, return_counts=True
    )
    device = np.empty(len(values), dtype=np.int64)
    device[np.argsort(-counts, kind="stable")] = np.arange(len(values)) % devices
    return device[inverse]


def _check_complete(parts: list[np.ndarray], samples: int, settings: PartitionSettings) -> None:
    """Raises ``DataError`` unless every sample is on one device: a rule of another library may lose some in rounding."""
    counts = np.bincount(np.concatenate(parts), minlength=samples)
    lost, doubled = int((counts == 0).sum()), int((counts > 1).sum())
    if lost or doubled:
        found = f"of {samples} samples, {lost} are on no device and {doubled} on several"
        if settings.kind == "dirichlet":
            raise DataError(f"partition.alpha = {settings.alpha}: {found}; take a larger alpha")
        raise DataError(f"partition.kind = {settings.kind!r}: {found}; choose another kind")
