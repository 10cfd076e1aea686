import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.data.batches import POOL_BATCHES, length_sorted_batches, training_batches

lengths_strategy = st.lists(st.integers(2, 64), max_size=300).map(lambda values: np.array(values, dtype=np.int64))


def padding(batches: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(int(lengths[batch].max()) * len(batch) - int(lengths[batch].sum()) for batch in batches)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_strategy, batch_size=st.integers(1, 40), epochs=st.integers(1, 3), seed=st.integers(0, 2**62))
def test_every_sample_comes_once_in_each_epoch(lengths: np.ndarray, batch_size: int, epochs: int, seed: int) -> None:
    batches = training_batches(lengths, batch_size, epochs, None, seed)
    an_epoch = -(-len(lengths) // batch_size)
    assert len(batches) == an_epoch * epochs
    for epoch in range(epochs if len(lengths) else 0):
        seen = np.concatenate(batches[epoch * an_epoch : (epoch + 1) * an_epoch])
        np.testing.assert_array_equal(np.sort(seen), np.arange(len(lengths)))


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_strategy, batch_size=st.integers(1, 40), steps=st.integers(1, 50), seed=st.integers(0, 9))
def test_steps_are_a_prefix_of_as_many_epochs_as_they_need(lengths: np.ndarray, batch_size: int, steps: int, seed: int) -> None:
    batches = training_batches(lengths, batch_size, 1, steps, seed)
    assert len(batches) == (steps if len(lengths) else 0)
    whole = training_batches(lengths, batch_size, steps, None, seed)
    for batch, expected in zip(batches, whole, strict=False):
        np.testing.assert_array_equal(batch, expected)


def test_only_one_batch_of_an_epoch_is_smaller() -> None:
    # 70 = 4 · 16 + 6
    sizes = sorted(len(batch) for batch in training_batches(np.full(70, 5), 16, 1, None, 0))
    assert sizes == [6, 16, 16, 16, 16]


def test_batches_repeat_with_the_seed_and_change_with_it_and_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 100)
    first, again, other = (np.concatenate(training_batches(lengths, 8, 2, None, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[:100] != first[100:]).any()


def test_sorting_within_pools_saves_most_of_the_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 65, POOL_BATCHES * 32 * 2)
    batches = training_batches(lengths, 32, 1, None, 0)
    plain = [np.arange(start, start + 32) for start in range(0, len(lengths), 32)]
    # 61 lengths over the 16 batches of a pool: some 4 tokens between a batch's shortest and longest, against some 58
    # unsorted, so a fourteenth; a fifth leaves room for chance.
    assert padding(batches, lengths) < padding(plain, lengths) / 5
    means = [float(lengths[batch].mean()) for batch in batches]
    assert means != sorted(means)  # the order of the batches is random again


@settings(max_examples=40, deadline=None)
@given(lengths=lengths_strategy, batch_size=st.integers(1, 40))
def test_evaluation_batches_have_every_index_once_and_lengths_rise(lengths: np.ndarray, batch_size: int) -> None:
    batches = length_sorted_batches(lengths, batch_size)
    order = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    np.testing.assert_array_equal(np.sort(order), np.arange(len(lengths)))
    assert (np.diff(lengths[order]) >= 0).all()
    assert all(len(batch) == batch_size for batch in batches[:-1])


@pytest.mark.parametrize("steps", [None, 7])
def test_a_device_without_samples_has_no_batches(steps: int | None) -> None:
    assert training_batches(np.empty(0, dtype=np.int64), 8, 3, steps, 0) == []
    assert length_sorted_batches(np.empty(0, dtype=np.int64), 8) == []
