import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.data.corpus import LabelledTexts, TextSet, balanced_subset, build_corpus, sort_label_names
from fedfit.errors import DataError


def labelled(labels: list[str], origin: str = "file") -> LabelledTexts:
    return LabelledTexts(origin, [f"text {number}" for number in range(len(labels))], labels)


def test_classes_are_numbered_by_sorted_names() -> None:
    corpus = build_corpus(labelled(["Sports", "World", "Business", "World"]), labelled(["World"]))
    assert corpus.label_names == ("Business", "Sports", "World")
    assert corpus.train.labels.tolist() == [1, 2, 0, 2]
    assert corpus.test.labels.tolist() == [2]
    assert corpus.train.labels.dtype == np.int64


def test_whole_numbers_are_sorted_by_value_and_mixed_labels_as_strings() -> None:
    assert sort_label_names(["10", "9", "-1"]) == ("-1", "9", "10")
    assert sort_label_names(["10", "9", "x"]) == ("10", "9", "x")


def test_an_unknown_test_label_is_named_with_its_row() -> None:
    with pytest.raises(DataError, match=r"test.csv has the label 'c' \(row 3\).*'a', 'b'"):
        build_corpus(labelled(["a", "b"]), labelled(["a", "b", "c"], "test.csv"))


def test_one_class_only_is_refused() -> None:
    with pytest.raises(DataError, match=r"one class only, 'a'.*data.label"):
        build_corpus(labelled(["a", "a"]), labelled(["a"]))


@pytest.mark.parametrize(("train", "test", "key"), [([], ["a"], "data.train"), (["a", "b"], [], "data.test")])
def test_a_set_without_rows_is_refused(train: list[str], test: list[str], key: str) -> None:
    with pytest.raises(DataError, match=f"no rows .{key}"):
        build_corpus(labelled(train), labelled(test))


def test_select_takes_texts_pairs_labels_and_columns_alike() -> None:
    texts = TextSet(["a", "b", "c"], ["x", "y", "z"], np.array([0, 1, 2]), {"node": ["n0", "n1", "n2"]})
    chosen = texts.select(np.array([2, 0]))
    assert (list(chosen.texts), list(chosen.pairs or ())) == (["c", "a"], ["z", "x"])
    assert chosen.labels.tolist() == [2, 0]
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
