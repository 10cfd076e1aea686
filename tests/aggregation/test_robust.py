import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.krum import Krum
from fedfit.aggregation.norm_bound import NormBound
from fedfit.aggregation.robust import Median, TrimmedMean
from fedfit.errors import TrainingStopped
from fedfit.records import AdapterSize, Origin, Update
from tests.aggregation.watching import most_alive
from tests.builders import random_update, same_bits

STATE = random_update(99)
NAMES = list(named_tensors(STATE))
ALL = {"median": Median(), "trimmed_mean": TrimmedMean(0.2), "krum": Krum(1), "norm_bound": NormBound(2.0)}
rules = pytest.mark.parametrize("rule", ALL.values(), ids=ALL)


def from_device(device: int, weight: float = 1.0) -> Update:
    return replace(random_update(device, weight), origin=Origin(device, 0))


def wild(device: int, sign: float = 1.0) -> Update:
    """An update of 1e6 everywhere that says that it has seen a million samples."""
    values = {name: torch.full_like(tensor, sign * 1e6) for name, tensor in named_tensors(STATE).items()}
    return replace(with_tensors(STATE, values), weight=1e6, origin=Origin(device, 0))


def table(updates: list[Update], name: str) -> np.ndarray:
    """``(n, …)`` values of the tensor ``name`` in float64."""
    return np.stack([named_tensors(update)[name].double().numpy() for update in updates])


def flat(update: Update) -> np.ndarray:
    return np.concatenate([table([update], name).ravel() for name in NAMES])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_the_median_is_that_of_every_coordinate(count: int) -> None:
    """The twin sorts each coordinate by itself. Weights are there, and count nothing."""
    updates = [from_device(n, 10.0**n) for n in range(count)]
    result = Median().apply(STATE, iter(updates))
    for name in NAMES:
        values = np.sort(table(updates, name), axis=0)
        expected = (values[(count - 1) // 2] + values[count // 2]) / 2
        np.testing.assert_array_equal(named_tensors(result)[name].numpy(), expected.astype(np.float32))


# n, share, and k = ⌈share · n⌉ below n/2, by hand.
CUTS = [(1, 0.4, 0), (2, 0.4, 0), (3, 0.1, 1), (4, 0.25, 1), (4, 0.3, 1), (5, 0.2, 1), (5, 0.21, 2), (10, 0.1, 1)]
CUTS += [(10, 0.15, 2), (25, 0.28, 7), (7, 0.49, 3), (6, 0.0, 0)]


@pytest.mark.parametrize(("count", "share", "cut"), CUTS)
def test_the_trimmed_mean_leaves_out_the_ends_of_every_coordinate(count: int, share: float, cut: int) -> None:
    updates = [from_device(n, 10.0 ** (n % 5)) for n in range(count)]
    result = TrimmedMean(share).apply(STATE, iter(updates))
    for name in NAMES:
        values = np.sort(table(updates, name), axis=0)
        expected = sum(values[row] for row in range(cut, count - cut)) / (count - 2 * cut)
        np.testing.assert_allclose(named_tensors(result)[name].numpy(), expected, rtol=1e-6, atol=1e-7)


def slow_krum(updates: list[Update], suspected: int) -> int:
    """By explicit distances: which of ``updates`` has the least sum over its n - f - 2 nearest."""
    scores = []
    for i, one in enumerate(updates):
        others = sorted(float(((flat(one) - flat(other)) ** 2).sum()) for j, other in enumerate(updates) if j != i)
        scores.append(math.fsum(others[: len(updates) - suspected - 2]))
    return scores.index(min(scores))


@pytest.mark.parametrize(("count", "suspected"), [(3, 0), (4, 0), (5, 1), (6, 1), (9, 1), (7, 2), (8, 2), (12, 3)])
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_krum_takes_the_update_that_explicit_distances_say(count: int, suspected: int, seed: int) -> None:
    updates = [from_device(seed + n, 10.0 ** (n % 5)) for n in range(count)]
    result = Krum(suspected).apply(STATE, iter(updates))
    assert same_bits(result, updates[slow_krum(updates, suspected)])


def test_krum_by_hand_counts_the_head_and_the_right_neighbours() -> None:
    """In the head bias alone: 0, 1, 3, 7, 20. With f = 1 two neighbours: scores 1+9, 1+4, 4+9, 16+36, … so 1 wins.

    With f = 0 three: 1+9+49, 1+4+36, 4+9+16, 16+36+49, … so 3 wins.
    """
    updates = []
    for value in (0.0, 1.0, 3.0, 7.0, 20.0):
        head = {**STATE.head, "classifier.bias": torch.tensor([value, 0.0, 0.0])}
        updates.append(replace(STATE, head=head))
    assert Krum(1).apply(STATE, updates).head["classifier.bias"][0] == 1
    assert Krum(0).apply(STATE, updates).head["classifier.bias"][0] == 3


@pytest.mark.parametrize(("count", "suspected"), [(1, 0), (2, 0), (1, 1), (4, 1), (6, 2)])
def test_krum_refuses_too_few(count: int, suspected: int) -> None:
    needed = 2 * suspected + 3
    message = f"suspected = {suspected} needs {needed} updates in a round, and {count} came; lower federation.suspected"
    with pytest.raises(TrainingStopped, match=message):
        Krum(suspected).apply(STATE, [from_device(n) for n in range(count)])


def test_of_equal_scores_the_lowest_device_wins() -> None:
    """n = 3, f = 0: one neighbour, so the two that are nearest to each other have the same score."""
    updates = [from_device(n) for n in (7, 4)]
    for order in ([*updates, wild(1)], [wild(1), *reversed(updates)]):
        assert same_bits(Krum(0).apply(STATE, order), updates[1])


@pytest.mark.parametrize("bound", [1e-3, 0.5, 5.0, 12.0, 1e9])
def test_the_norm_bound_is_the_mean_of_clipped_changes(bound: float) -> None:
    """Norms of these changes are about √(2·65) = 11: 12 clips some of them."""
    updates = [from_device(n, weight) for n, weight in enumerate((3.0, 5.0, 11.0, 1.0))]
    start, total = flat(STATE), 0.0
    mean = np.zeros_like(start)
    for update in updates:
        change = flat(update) - start
        mean += update.weight * change / max(1.0, math.sqrt(float((change**2).sum())) / bound)
        total += update.weight
    result = flat(NormBound(bound).apply(STATE, iter(updates)))
    np.testing.assert_allclose(result, start + mean / total, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40_000), max_size=5), st.integers(0, 100), st.sampled_from([math.inf, 1e300]))
def test_an_infinite_norm_bound_is_fedavg_to_the_bit(weights: list[int], seed: int, bound: float) -> None:
    updates = [random_update(seed + n, float(weight)) for n, weight in enumerate(weights)]
    assert same_bits(NormBound(bound).apply(STATE, iter(updates)), FedAvg().apply(STATE, iter(updates)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("rule", [Median(), TrimmedMean(0.2), TrimmedMean(0.1), Krum(1)])
def test_one_wild_update_moves_nothing_beyond_the_honest(rule: FedAvg, place: int, sign: float) -> None:
    honest = [from_device(n) for n in range(4)]
    result = rule.apply(STATE, [*honest[:place], wild(place, sign), *honest[place:]])
    for name in NAMES:
        values = table(honest, name)
        found = named_tensors(result)[name].numpy()
        assert (found >= values.min(axis=0).astype(np.float32)).all()
        assert (found <= values.max(axis=0).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("rule", "honest", "bad"),
    [(Median(), 3, 2), (Median(), 5, 4), (TrimmedMean(0.4), 3, 2), (TrimmedMean(0.3), 7, 3), (Krum(2), 5, 2), (Krum(3), 6, 3)],
)
def test_an_honest_majority_wins_also_against_wild_updates_that_agree(rule: FedAvg, honest: int, bad: int) -> None:
    good = [from_device(n) for n in range(honest)]
    result = rule.apply(STATE, [*[wild(10 + n) for n in range(bad)], *good])
    for name in NAMES:
        values = table(good, name).astype(np.float32)
        found = named_tensors(result)[name].numpy()
        assert (found >= values.min(axis=0)).all()
        assert (found <= values.max(axis=0)).all()


def test_a_wild_update_moves_the_norm_bound_by_its_share_of_the_bound() -> None:
    """Five of equal weight, four of them unchanged: 1e6 everywhere moves the state by M/5 = 0.4 in norm, whatever it says."""
    still = [replace(STATE, weight=3.0)] * 4
    moved = NormBound(2.0).apply(STATE, [*still, replace(wild(0), weight=3.0)])
    assert np.linalg.norm(flat(moved) - flat(STATE)) == pytest.approx(0.4, rel=1e-5)


@rules
@pytest.mark.parametrize("count", [5, 6, 7, 10])
def test_equal_updates_give_that_update_to_the_bit(rule: FedAvg, count: int) -> None:
    """At the norm bound too, of updates within it: these 65 coordinates move by 1e-3, √65 · 1e-3 = 0.008 in all."""
    update = random_update(5)
    if isinstance(rule, NormBound):
        values = {name: tensor + 1e-3 for name, tensor in named_tensors(STATE).items()}
        update = with_tensors(STATE, values)
    assert same_bits(rule.apply(STATE, [replace(update, weight=1.0 + n) for n in range(count)]), update)


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(0.2), NormBound(math.inf)])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 40_000.0])
def test_one_device_gives_its_own_update_to_the_bit(rule: FedAvg, weight: float) -> None:
    update = from_device(1, weight)
    assert same_bits(rule.apply(STATE, [update]), update)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(ALL)), st.permutations(range(6)), st.lists(st.integers(1, 40_000), min_size=6, max_size=6))
def test_the_order_of_the_devices_changes_no_bit(name: str, order: list[int], weights: list[int]) -> None:
    updates = [from_device(n, float(weight)) for n, weight in enumerate(weights)]
    assert same_bits(ALL[name].apply(STATE, updates), ALL[name].apply(STATE, [updates[n] for n in order]))


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(0.2), Krum(1)])
def test_weights_count_nothing_where_the_paper_has_none(rule: FedAvg) -> None:
    plain, weighted = [from_device(n) for n in range(5)], [from_device(n, 10.0**n) for n in range(5)]
    assert same_bits(rule.apply(STATE, plain), rule.apply(STATE, weighted))


@rules
def test_a_change_of_the_head_alone_arrives(rule: FedAvg) -> None:
    head = {name: tensor + 0.25 for name, tensor in STATE.head.items()}
    result = rule.apply(STATE, [replace(STATE, head=head)] * 5)
    for name, tensor in STATE.head.items():
        assert (result.head[name] - tensor > 0.1).all()
    assert same_bits(Update(result.factors, {}), Update(STATE.factors, {}))


@rules
def test_without_an_update_the_state_stays(rule: FedAvg) -> None:
    assert rule.apply(STATE, iter([])) is STATE


@rules
def test_apply_changes_neither_state_nor_updates(rule: FedAvg) -> None:
    state, updates = random_update(99), [random_update(n) for n in range(5)]
    result = rule.apply(state, updates)
    assert same_bits(state, STATE)
    assert all(same_bits(update, random_update(n)) for n, update in enumerate(updates))
    places = {tensor.data_ptr() for update in (state, *updates) for tensor in named_tensors(update).values()}
    assert not places & {tensor.data_ptr() for tensor in named_tensors(result).values()}
    assert (result.weight, result.metrics, result.origin) == (1.0, {}, None)


@pytest.mark.parametrize("bound", [0.1, math.inf])
def test_the_norm_bound_has_one_update_alive_at_a_time(bound: float) -> None:
    assert most_alive(lambda updates: NormBound(bound).apply(STATE, updates)) == 0


@rules
def test_the_rest_of_the_contract_is_fedavgs(rule: FedAvg) -> None:
    for name in ("mixed_ranks", "fixed_rank", "uniform", "known", "keeps_pair"):
        assert getattr(rule, name) == getattr(FedAvg(), name)
    assert rule.init(STATE) is rule.adapter(STATE) is rule.dispatch(STATE, 3, AdapterSize(2, 2.0), 1) is STATE


def test_settings_that_make_no_sense() -> None:
    for share in (0.5, 0.9, -0.1, math.nan):
        with pytest.raises(ValueError, match="at least 0 and below"):
            TrimmedMean(share)
    with pytest.raises(ValueError, match="-1 suspected"):
        Krum(-1)
    for bound in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be above 0"):
            NormBound(bound)


def test_the_largest_updates_that_pass_do_not_overflow() -> None:
    values = {name: torch.full_like(tensor, 3e38) for name, tensor in named_tensors(STATE).items()}
    huge = with_tensors(STATE, values)
    for rule in ALL.values():
        assert all(math.isfinite(value) for value in flat(rule.apply(STATE, [huge] * 5)))
