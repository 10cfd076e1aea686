import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedfit.data.corpus import TextSet, balanced_subset, stratified_split
from fedfit.errors import DataError


def test_select_takes_texts_pairs_labels_and_columns_alike() -> None:
    fields = {"text": ["a", "b", "c"], "pair": ["x", "y", "z"]}
    texts = TextSet(fields, np.array([0, 1, 2]), {"node": ["n0", "n1", "n2"]})
    chosen = texts.select(np.array([2, 0]))
    assert chosen.fields == {"text": ["c", "a"], "pair": ["z", "x"]}
    assert chosen.classes.tolist() == [2, 0]
    assert chosen.columns["node"] == ["n2", "n0"]
    assert len(texts.select([])) == 0


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=6), data=st.data())
def test_balanced_subset_is_as_equal_as_the_classes_allow(counts: list[int], data: st.DataObject) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    samples = data.draw(st.integers(0, sum(counts)))
    indices = balanced_subset(labels, samples, seed=data.draw(st.integers(0, 5)))
    assert len(indices) == samples
    assert (np.diff(indices) > 0).all()  # sorted, none twice
    taken = np.bincount(labels[indices], minlength=len(counts))
    # A class that has samples left over got no fewer, to within the one that cannot be halved, than any other class.
    for label, count in enumerate(counts):
        if taken[label] < count:
            assert taken[label] >= taken.max() - 1


def test_a_rare_class_gives_all_it_has_and_the_others_fill_up() -> None:
    # 12 from classes of 2, 20, 20: 2 + 5 + 5
    labels = np.repeat([0, 1, 2], [2, 20, 20])
    assert np.bincount(labels[balanced_subset(labels, 12, seed=0)]).tolist() == [2, 5, 5]


def test_balanced_subset_repeats_with_the_seed_and_changes_with_it() -> None:
    labels = np.repeat([0, 1], 100)
    first, again, other = (balanced_subset(labels, 20, seed).tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_more_than_there_are_is_refused_with_the_key() -> None:
    with pytest.raises(DataError, match=r"data.test_samples = 5: there are only 4"):
        balanced_subset(np.zeros(4, dtype=np.int64), 5, 0, "data.test_samples")


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=6), share=st.floats(0.01, 0.9), seed=st.integers(0, 5))
def test_a_split_takes_the_share_of_each_class_and_loses_no_sample(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    assume(round(share * len(labels)) > 0)
    held_out, kept = stratified_split(labels, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([held_out, kept])), np.arange(len(labels)))
    assert (np.diff(held_out) > 0).all()
    assert (np.diff(kept) > 0).all()
    taken = np.bincount(labels[held_out], minlength=len(counts))
    for count, part in zip(counts, taken, strict=True):
        assert np.floor(share * count) - 1 <= part <= min(np.ceil(share * count), count - 1)
    if all(share * count <= count - 1 for count in counts):  # no class is at its limit, so the total is the rounded share
        assert len(held_out) == round(share * len(labels))


def test_the_largest_fractions_are_rounded_up_and_a_class_of_one_stays() -> None:
    # 20 % of 8, 7, 7, 1: 1.6, 1.4, 1.4, 0.2, of 23 together 4.6, so 5: wholes 1, 1, 1, 0, then 1.6 and the first 1.4
    labels = np.repeat([0, 1, 2, 3], [8, 7, 7, 1])
    assert np.bincount(labels[stratified_split(labels, 0.2, 0)[0]], minlength=4).tolist() == [2, 2, 1, 0]
    labels = np.repeat([0, 1], [1, 9])
    assert labels[stratified_split(labels, 0.9, 0)[0]].tolist() == [1] * 8


def test_a_split_repeats_with_the_seed_and_changes_with_it() -> None:
    labels = np.repeat([0, 1], 100)
    first, again, other = (stratified_split(labels, 0.1, seed)[0].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_a_share_of_nothing_is_refused_with_the_key() -> None:
    with pytest.raises(DataError, match=r"data.validation_share = 0.01: of 4 samples in 2 classes that is none"):
        stratified_split(np.array([0, 0, 1, 1]), 0.01, 0)
