import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.data.corpus import TextSet
from fedfit.data.partition import label_counts, partition
from fedfit.data_settings import PartitionSettings
from fedfit.errors import DataError


def sorted_set(per_class: int, classes: int = 4) -> TextSet:
    """Sorted by class, as many files are."""
    labels = np.repeat(np.arange(classes), per_class)
    nodes = [f"node{index % 7}" for index in range(len(labels))]
    return TextSet({"text": [f"text {index}" for index in range(len(labels))]}, labels, {"node": nodes})


def assert_covers(parts: list[np.ndarray], samples: int) -> None:
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(samples))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "shards", "by_column"]),
    per_class=st.integers(4, 20),
    devices=st.integers(1, 7),
    alpha=st.floats(0.05, 10),
    seed=st.integers(0, 2**62),
)
def test_every_sample_goes_to_exactly_one_device(kind: str, per_class: int, devices: int, alpha: float, seed: int) -> None:
    texts = sorted_set(per_class)
    chosen = PartitionSettings(kind=kind, alpha=alpha, shards_per_device=2, column="node")
    parts = partition(texts, chosen, devices, seed)
    assert len(parts) == devices
    assert_covers(parts, len(texts))
    for part, again in zip(parts, partition(texts, chosen, devices, seed), strict=True):
        np.testing.assert_array_equal(part, again)


def test_iid_mixes_a_sorted_file_and_gives_equal_sizes() -> None:
    texts = sorted_set(100)
    parts = partition(texts, PartitionSettings(kind="iid"), 4, seed=0)
    counts = label_counts(parts, texts.classes, 4)
    assert counts.sum(axis=1).tolist() == [100] * 4
    # 100 drawn from 400 with 100 a class: mean 25, standard deviation sqrt(100·¼·¾·(300/399)) = 3.8; five of them.
    assert (np.abs(counts - 25) < 19).all()
    assert (partition(texts, PartitionSettings(kind="iid"), 4, seed=1)[0] != parts[0]).any()


def test_dirichlet_is_skewed_for_a_small_alpha_and_even_for_a_large_one() -> None:
    texts = sorted_set(500)
    spread = {}
    for alpha in (0.1, 1000.0):
        parts = partition(texts, PartitionSettings(kind="dirichlet", alpha=alpha), 5, seed=0)
        spread[alpha] = label_counts(parts, texts.classes, 4).std(axis=0).mean()
    # A share's variance is (1/5)(4/5)/(5α + 1): 0.33 for α = 0.1, 0.0057 for α = 1000; times 500 samples 163 and 2.8.
    assert spread[0.1] > 80
    assert spread[1000.0] < 10


def test_dirichlet_with_many_devices_leaves_some_without_samples() -> None:
    texts = sorted_set(50)
    parts = partition(texts, PartitionSettings(kind="dirichlet", alpha=0.1), 100, seed=0)
    assert_covers(parts, 200)
    assert any(len(part) == 0 for part in parts)


def test_shards_give_a_device_few_classes_and_lose_no_sample() -> None:
    texts = sorted_set(101)  # 404 samples in 20 shards: sizes 20 and 21
    parts = partition(texts, PartitionSettings(kind="shards", shards_per_device=2), 10, seed=0)
    assert_covers(parts, 404)
    assert {len(part) for part in parts} <= {40, 41, 42}
    # Four classes make at most three shards that straddle two of them, so two shards hold at most four classes, and
    # most devices hold one or two.
    classes = (label_counts(parts, texts.classes, 4) > 0).sum(axis=1)
    assert np.median(classes) <= 2


def test_by_column_keeps_a_value_on_one_device_and_deals_the_largest_first() -> None:
    values = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2
    texts = TextSet({"text": ["text"] * 14}, np.arange(14) % 2, {"node": values})
    chosen = PartitionSettings(kind="by_column", column="node")
    parts = partition(texts, chosen, 2, seed=0)
    # In turn: a → 0, b → 1, c → 0, d → 1.
    assert [sorted({values[index] for index in part}) for part in parts] == [["a", "c"], ["b", "d"]]
    assert [len(part) for part in partition(texts, chosen, 4, seed=0)] == [5, 4, 3, 2]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([[0, 1], [2, 3, 4, 5, 6]], "1 are on no device and 0 on several"),
        ([[0, 1, 2], [2, 3, 4, 5, 6, 7]], "0 are on no device and 1 on several"),
        ([[0, 1, 2], [2, 3, 4, 5, 6]], "1 are on no device and 1 on several"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "words"),
    [("dirichlet", "partition.alpha = 0.5: .*a larger alpha"), ("iid", "partition.kind = 'iid': .*another kind")],
)
def test_a_rule_that_loses_or_doubles_a_sample_is_refused(
    parts: list[list[int]], found: str, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfit.data.partition._by_rule", lambda *_: [np.array(rows) for rows in parts])
    with pytest.raises(DataError, match=words) as refusal:
        partition(sorted_set(2), PartitionSettings(kind=kind), 2, 0)
    assert f"of 8 samples, {found}" in str(refusal.value)


def test_by_column_with_fewer_values_than_devices_names_the_number_to_set() -> None:
    settings, both = PartitionSettings(kind="by_column", column="node"), "federation.devices_per_round"
    for devices_per_round in (7, 8):
        with pytest.raises(DataError, match=r"federation.devices = 8: .*'node' has only 7.*federation.devices = 7") as refusal:
            partition(sorted_set(10), settings, 8, 0, devices_per_round)
        assert (f"7 or less and {both} (now 8) no higher" in str(refusal.value)) == (devices_per_round == 8)
        assert (both in str(refusal.value)) == (devices_per_round == 8)


@pytest.mark.parametrize("column", [None, "nod"])
def test_by_column_without_such_a_column_lists_those_there(column: str | None) -> None:
    with pytest.raises(DataError, match=r"partition.column = .*it has: node"):
        partition(sorted_set(10), PartitionSettings(kind="by_column", column=column), 2, 0)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards", "by_column"])
def test_more_devices_than_samples_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"federation.devices = 9: more than the 8"):
        partition(sorted_set(2), PartitionSettings(kind=kind, column="node"), 9, 0)


def test_as_many_devices_as_samples_get_one_each() -> None:
    assert [len(part) for part in partition(sorted_set(2), PartitionSettings(kind="iid"), 8, 0)] == [1] * 8


def test_more_shards_than_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"partition.shards_per_device = 3: 4 devices need 12 shards"):
        partition(sorted_set(2), PartitionSettings(kind="shards", shards_per_device=3), 4, 0)


def test_label_counts_has_a_row_a_device_also_for_an_empty_one() -> None:
    parts = [np.array([0, 1, 3]), np.array([], dtype=np.int64)]
    assert label_counts(parts, np.array([0, 2, 1, 2]), 3).tolist() == [[1, 0, 2], [0, 0, 0]]
