"""The weighted mean against a slow twin in numpy: number by number, with exact sums, rows placed by slice and by index."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.aggregation.weighted_mean import Rows, WeightedSum, average, gather, weighted_mean
from fedfit.core.update import PAIRS, Factors, Origin, ServerState, Update, named_tensors, update_of
from tests.aggregation.watching import most_alive
from tests.builders import random_update, same_bits

RANK = 5
LIKE = random_update(99, rank=RANK)
MODULES = tuple(LIKE.factors)
RANKS = (1, 2, 3, RANK)
WEIGHTS = (3.0, 5.0, 11.0, 2.0)
UPDATES = [random_update(seed, weight, rank) for seed, (rank, weight) in enumerate(zip(RANKS, WEIGHTS, strict=True))]


def first_rows(update: Update) -> Rows:
    return {name: slice(0, len(pair.a)) for name, pair in update.factors.items()}


def shifted_rows(update: Update) -> Rows:
    """The last rows, by slice."""
    return {name: slice(RANK - len(pair.a), RANK) for name, pair in update.factors.items()}


def drawn_rows(update: Update) -> Rows:
    """Rows by index, ascending, other ones for every module and rank."""
    rows = {}
    for number, (name, pair) in enumerate(update.factors.items()):
        drawn = np.random.default_rng((number, len(pair.a))).permutation(RANK)[: len(pair.a)]
        rows[name] = torch.from_numpy(np.sort(drawn))
    return rows


def places(chosen: slice | Tensor) -> list[int]:
    return list(range(RANK))[chosen] if isinstance(chosen, slice) else [int(place) for place in chosen]


def slow_mean(
    updates: Sequence[Update], rows: Callable[[Update], Rows] | None, keep_unheld: bool, weights: Sequence[float]
) -> dict[str, np.ndarray]:
    """``Σ w_i x_i / Σ w_i``; a device without a row counts it as zero there, or as the row of ``LIKE``."""
    total, means = math.fsum(weights), {}
    for full, whole in named_tensors(LIKE).items():
        group, _, module = full.partition(".")
        placed = []
        for update in updates:
            own = named_tensors(update)[full].numpy().astype(np.float64)
            if rows is not None and group in PAIRS:
                wide = whole.numpy().astype(np.float64) if keep_unheld else np.zeros(whole.shape)
                for source, place in enumerate(places(rows(update)[module])):
                    if group == "lora_A":
                        wide[place] = own[source]
                    else:
                        wide[:, place] = own[:, source]
                own = wide
            placed.append(own)
        mean = np.empty(whole.shape, dtype=np.float32)
        for where in itertools.product(*map(range, whole.shape)):
            mean[where] = math.fsum(weight * float(own[where]) for weight, own in zip(weights, placed, strict=True)) / total
        means[full] = mean
    return means


def close(found: Update | None, expected: dict[str, np.ndarray]) -> None:
    assert found is not None
    tensors = named_tensors(found)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=2e-7, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("keep_unheld", [False, True])
@pytest.mark.parametrize("rows", [first_rows, shifted_rows, drawn_rows])
@pytest.mark.parametrize("weights", [WEIGHTS, (1, 1, 1, 1), (40_000, 12_345, 7, 900), (1e-3, 1e-6, 2e-3, 1e-3)])
def test_it_is_the_slow_mean(weights: tuple[float, ...], rows: Callable[[Update], Rows], keep_unheld: bool) -> None:
    updates = [replace(update, weight=weight) for update, weight in zip(UPDATES, weights, strict=True)]
    found = weighted_mean(iter(updates), LIKE, rows=rows, keep_unheld=keep_unheld)
    close(found, slow_mean(updates, rows, keep_unheld, weights))
    assert found is not None
    assert {tensor.dtype for tensor in named_tensors(found).values()} == {torch.float32}
    assert (found.scales, found.weight, found.facts) == (LIKE.scales, 1.0, {})


def test_without_rows_whole_tensors_are_averaged() -> None:
    updates = [random_update(seed, weight, RANK) for seed, weight in enumerate(WEIGHTS)]
    close(weighted_mean(updates, LIKE), slow_mean(updates, None, False, WEIGHTS))
    close(weighted_mean(updates, LIKE, keep_unheld=True), slow_mean(updates, None, False, WEIGHTS))


def test_another_weight_than_the_samples() -> None:
    """By the rank of each update: 1, 2, 3 and 5."""
    found = weighted_mean(UPDATES, LIKE, weight=lambda update: float(update.rank), rows=first_rows)
    close(found, slow_mean(UPDATES, first_rows, False, RANKS))


def test_by_hand() -> None:
    """One column of three rows, held 1, 2, 4. Weights 3 and 1; the first holds row 0 alone, as 5, the second rows 0 and 2."""

    def update(a: list[float], weight: float) -> Update:
        tensor = torch.tensor(a)
        return update_of({"m": Factors(tensor[:, None], -tensor[None], 1.0)}, {"head": {"x": tensor[:1]}}, weight)

    like = update([1, 2, 4], 1)
    one, two = update([5], 3), update([9, 8], 1)
    rows = {1: torch.tensor([0]), 2: torch.tensor([0, 2])}
    placed: Callable[[Update], Rows] = lambda each: {"m": rows[each.rank]}  # noqa: E731
    zeros, kept = (weighted_mean([one, two], like, rows=placed, keep_unheld=keep) for keep in (False, True))
    assert zeros is not None
    assert kept is not None
    # Row 0: (3·5 + 9) / 4 = 6 in both. Row 1: 0, or 2. Row 2: 8 / 4 = 2, or (3·4 + 8) / 4 = 5.
    assert zeros.factors["m"].a.tolist() == [[6.0], [0.0], [2.0]]
    assert zeros.factors["m"].b.tolist() == [[-6.0, 0.0, -2.0]]
    assert kept.factors["m"].a.tolist() == [[6.0], [2.0], [5.0]]
    assert kept.factors["m"].b.tolist() == [[-6.0, -2.0, -5.0]]
    assert zeros.groups["head"]["x"].tolist() == kept.groups["head"]["x"].tolist() == [6.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=5), st.integers(0, 1000))
def test_slice_index_and_whole_give_the_same_bits_at_the_whole_rank(weights: list[float], seed: int) -> None:
    updates = [random_update(seed + n, weight, RANK) for n, weight in enumerate(weights)]
    plain = weighted_mean(updates, LIKE)
    every: dict[str, Any] = {name: torch.arange(RANK) for name in MODULES}
    assert plain is not None
    for rows in (first_rows, lambda update: every):
        for keep_unheld in (False, True):
            found = weighted_mean(updates, LIKE, rows=rows, keep_unheld=keep_unheld)
            assert found is not None
            assert same_bits(found, plain)


@pytest.mark.parametrize("weights", [WEIGHTS, (0.1, 0.2, 0.3, 0.7)])
def test_rows_that_nobody_held_stay_to_the_bit(weights: tuple[float, ...]) -> None:
    updates = [random_update(seed, weight, 2) for seed, weight in enumerate(weights)]
    kept = weighted_mean(updates, LIKE, rows=first_rows, keep_unheld=True)
    zeros = weighted_mean(updates, LIKE, rows=first_rows)
    assert kept is not None
    assert zeros is not None
    for name, pair in LIKE.factors.items():
        assert torch.equal(kept.factors[name].a[2:], pair.a[2:])
        assert torch.equal(kept.factors[name].b[:, 2:], pair.b[:, 2:])
        assert not zeros.factors[name].a[2:].any()
        assert not zeros.factors[name].b[:, 2:].any()
        assert torch.equal(kept.factors[name].a[:2], zeros.factors[name].a[:2])


def test_groups_beside_those_of_like_are_not_looked_at() -> None:
    like = LIKE.without(PAIRS)
    stray = [update.with_groups({"own": {"x": torch.full((2,), math.nan)}}) for update in UPDATES]
    found = weighted_mean(stray, like)
    assert found is not None
    assert found.present == like.present
    expected = slow_mean(UPDATES, first_rows, False, WEIGHTS)
    close(found, {name: mean for name, mean in expected.items() if name.startswith("head.")})


def test_the_type_is_that_of_like() -> None:
    """Sums are in float64: with a ``like`` in float64 nothing is rounded."""
    wide = LIKE.with_groups({"head": {name: tensor.double() for name, tensor in LIKE.groups["head"].items()}}).without(PAIRS)
    updates = [random_update(seed, weight) for seed, weight in enumerate((1.0, 2.0, 4.0))]
    found = weighted_mean(updates, wide)
    assert found is not None
    for name, tensor in found.groups["head"].items():
        exact = sum(update.weight * update.groups["head"][name].double() for update in updates) / 7
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, torch.as_tensor(exact), rtol=1e-15, atol=1e-15)


def test_nothing_in_is_nothing_out() -> None:
    sums = WeightedSum(LIKE)
    assert sums.mean() is None
    sums.keep_unheld()
    assert sums.mean() is None
    assert weighted_mean(iter(()), LIKE, rows=first_rows, keep_unheld=True) is None
    state = ServerState(LIKE, {"m": torch.ones(1)}, {"n": 1})
    assert average(state, iter(())) is state
    assert gather(iter(()), LIKE) is None


def test_a_cleared_sum_forgets_weights_tensors_and_rows() -> None:
    sums, fresh = WeightedSum(LIKE), WeightedSum(LIKE)
    for update in UPDATES[:3]:
        sums.add(update, update.weight, drawn_rows(update))
    sums.clear()
    assert sums.total == 0.0
    for each in (sums, fresh):
        each.add(UPDATES[1], 5.0, first_rows(UPDATES[1]))
        each.keep_unheld()
    mine, other = sums.mean(), fresh.mean()
    assert mine is not None
    assert other is not None
    assert same_bits(mine, other)


def test_neither_like_nor_updates_change() -> None:
    like, updates = random_update(99, rank=RANK), [random_update(seed, rank=2) for seed in range(3)]
    found = weighted_mean(updates, like, rows=drawn_rows, keep_unheld=True)
    assert found is not None
    assert same_bits(like, LIKE)
    assert all(same_bits(update, random_update(seed, rank=2)) for seed, update in enumerate(updates))
    before = {tensor.data_ptr() for update in (like, *updates) for tensor in named_tensors(update).values()}
    assert not before & {tensor.data_ptr() for tensor in named_tensors(found).values()}


def test_one_update_is_in_memory_at_a_time() -> None:
    like = random_update(99)
    assert most_alive(lambda updates: weighted_mean(updates, like)) == 0
    assert most_alive(lambda updates: weighted_mean(updates, like, rows=first_rows, keep_unheld=True)) == 0
    assert most_alive(lambda updates: gather(updates, like)) == 3 * 2 * 2, "the pairs of three updates, and no head"


def test_gathered_pairs_stay_as_they_are_and_the_rest_is_averaged() -> None:
    updates = [replace(update, origin=Origin(device, 0)) for device, update in enumerate(UPDATES)]
    found = gather(iter(updates), LIKE)
    assert found is not None
    assert found.devices == [0, 1, 2, 3]
    assert found.rest.present == {"head"}
    expected = slow_mean(UPDATES, first_rows, False, WEIGHTS)
    close(found.rest, {name: mean for name, mean in expected.items() if name.startswith("head.")})
    assert found.pairs.keys() == LIKE.factors.keys()
    for name, pairs in found.pairs.items():
        assert [share for share, _ in pairs] == [weight / sum(WEIGHTS) for weight in WEIGHTS]
        for (_, pair), update in zip(pairs, updates, strict=True):
            assert pair.a is update.groups["lora_A"][name]
            assert pair.b is update.groups["lora_B"][name]


def test_gathered_updates_may_have_no_other_group() -> None:
    """A frozen head: the pairs alone."""
    found = gather([update.only(PAIRS) for update in UPDATES], LIKE.only(PAIRS))
    assert found is not None
    assert found.rest.present == frozenset()
    assert all(len(pairs) == 4 for pairs in found.pairs.values())
