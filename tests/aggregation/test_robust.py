import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.table import make_rule
from fedfit.core.update import HEAD, PAIRS, AdapterSize, Origin, ServerState, Update, named_tensors, with_tensors
from fedfit.errors import TrainingStopped
from fedfit.experiment.load import parse_recipe
from tests.aggregation.watching import most_alive
from tests.builders import random_update, rule_of, same_bits

STATE = random_update(99)
NAMES = list(named_tensors(STATE))
MEDIAN = rule_of("median")


def trimmed_mean(trim: float) -> Rule:
    return rule_of("trimmed_mean", trim=trim)


def krum(byzantine: int) -> Rule:
    return rule_of("krum", byzantine=byzantine)


def norm_bound(bound: float) -> Rule:
    return rule_of("norm_bound", bound=bound)


def applied(rule: Rule, updates: Iterable[Update], state: Update = STATE) -> Update:
    """The adapter after a round."""
    return rule.server.apply(ServerState(state), updates).adapter


ALL = {"median": MEDIAN, "trimmed_mean": trimmed_mean(0.2), "krum": krum(1), "norm_bound": norm_bound(2.0)}
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
    result = applied(MEDIAN, iter(updates))
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
    result = applied(trimmed_mean(share), iter(updates))
    for name in NAMES:
        values = np.sort(table(updates, name), axis=0)
        expected = sum(values[row] for row in range(cut, count - cut)) / (count - 2 * cut)
        np.testing.assert_allclose(named_tensors(result)[name].numpy(), expected, rtol=1e-6, atol=1e-7)


def slow_krum(updates: list[Update], byzantine: int) -> int:
    """By explicit distances: which of ``updates`` has the least sum over its n - f - 2 nearest."""
    scores = []
    for i, one in enumerate(updates):
        others = sorted(float(((flat(one) - flat(other)) ** 2).sum()) for j, other in enumerate(updates) if j != i)
        scores.append(math.fsum(others[: len(updates) - byzantine - 2]))
    return scores.index(min(scores))


@pytest.mark.parametrize(("count", "byzantine"), [(3, 0), (4, 0), (5, 1), (6, 1), (9, 1), (7, 2), (8, 2), (12, 3)])
@pytest.mark.parametrize("seed", [0, 100, 200])
def test_krum_takes_the_update_that_explicit_distances_say(count: int, byzantine: int, seed: int) -> None:
    updates = [from_device(seed + n, 10.0 ** (n % 5)) for n in range(count)]
    result = applied(krum(byzantine), iter(updates))
    assert same_bits(result, updates[slow_krum(updates, byzantine)])


def test_krum_by_hand_counts_the_head_and_the_right_neighbours() -> None:
    """In the head bias alone: 0, 1, 3, 7, 20. With f = 1 two neighbours: scores 1+9, 1+4, 4+9, 16+36, … so 1 wins.

    With f = 0 three: 1+9+49, 1+4+36, 4+9+16, 16+36+49, … so 3 wins.
    """
    updates = []
    for value in (0.0, 1.0, 3.0, 7.0, 20.0):
        head = {**STATE.groups[HEAD], "classifier.bias": torch.tensor([value, 0.0, 0.0])}
        updates.append(STATE.with_groups({HEAD: head}))
    assert applied(krum(1), updates).groups[HEAD]["classifier.bias"][0] == 1
    assert applied(krum(0), updates).groups[HEAD]["classifier.bias"][0] == 3


@pytest.mark.parametrize(("count", "byzantine"), [(1, 0), (2, 0), (1, 1), (4, 1), (6, 2)])
def test_krum_refuses_too_few(count: int, byzantine: int) -> None:
    needed = 2 * byzantine + 3
    message = f"byzantine = {byzantine} needs {needed} updates in a round, and had {count}; lower federation.krum.byzantine"
    with pytest.raises(TrainingStopped, match=message):
        applied(krum(byzantine), [from_device(n) for n in range(count)])


def test_of_equal_scores_the_lowest_device_wins() -> None:
    """n = 3, f = 0: one neighbour, so the two that are nearest to each other have the same score."""
    updates = [from_device(n) for n in (7, 4)]
    for order in ([*updates, wild(1)], [wild(1), *reversed(updates)]):
        assert same_bits(applied(krum(0), order), updates[1])


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
    result = flat(applied(norm_bound(bound), iter(updates)))
    np.testing.assert_allclose(result, start + mean / total, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40_000), max_size=5), st.integers(0, 100), st.sampled_from([math.inf, 1e300]))
def test_an_infinite_norm_bound_is_fedavg_to_the_bit(weights: list[int], seed: int, bound: float) -> None:
    updates = [random_update(seed + n, float(weight)) for n, weight in enumerate(weights)]
    assert same_bits(applied(norm_bound(bound), iter(updates)), applied(FEDAVG, iter(updates)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("rule", [MEDIAN, trimmed_mean(0.2), trimmed_mean(0.1), krum(1)])
def test_one_wild_update_moves_nothing_beyond_the_honest(rule: Rule, place: int, sign: float) -> None:
    honest = [from_device(n) for n in range(4)]
    result = applied(rule, [*honest[:place], wild(place, sign), *honest[place:]])
    for name in NAMES:
        values = table(honest, name)
        found = named_tensors(result)[name].numpy()
        assert (found >= values.min(axis=0).astype(np.float32)).all()
        assert (found <= values.max(axis=0).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("rule", "honest", "bad"),
    [(MEDIAN, 3, 2), (MEDIAN, 5, 4), (trimmed_mean(0.4), 3, 2), (trimmed_mean(0.3), 7, 3), (krum(2), 5, 2), (krum(3), 6, 3)],
)
def test_an_honest_majority_wins_also_against_wild_updates_that_agree(rule: Rule, honest: int, bad: int) -> None:
    good = [from_device(n) for n in range(honest)]
    result = applied(rule, [*[wild(10 + n) for n in range(bad)], *good])
    for name in NAMES:
        values = table(good, name).astype(np.float32)
        found = named_tensors(result)[name].numpy()
        assert (found >= values.min(axis=0)).all()
        assert (found <= values.max(axis=0)).all()


def test_a_wild_update_moves_the_norm_bound_by_its_share_of_the_bound() -> None:
    """Five of equal weight, four of them unchanged: 1e6 everywhere moves the state by M/5 = 0.4 in norm, whatever it says."""
    still = [replace(STATE, weight=3.0)] * 4
    moved = applied(norm_bound(2.0), [*still, replace(wild(0), weight=3.0)])
    assert np.linalg.norm(flat(moved) - flat(STATE)) == pytest.approx(0.4, rel=1e-5)


@rules
@pytest.mark.parametrize("count", [5, 6, 7, 10])
def test_equal_updates_give_that_update_to_the_bit(rule: Rule, count: int) -> None:
    """At the norm bound too, of updates within it: these 65 coordinates move by 1e-3, √65 · 1e-3 = 0.008 in all."""
    update = random_update(5)
    if rule is ALL["norm_bound"]:
        values = {name: tensor + 1e-3 for name, tensor in named_tensors(STATE).items()}
        update = with_tensors(STATE, values)
    assert same_bits(applied(rule, [replace(update, weight=1.0 + n) for n in range(count)]), update)


@pytest.mark.parametrize("rule", [MEDIAN, trimmed_mean(0.2), norm_bound(math.inf)])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 40_000.0])
def test_one_device_gives_its_own_update_to_the_bit(rule: Rule, weight: float) -> None:
    update = from_device(1, weight)
    assert same_bits(applied(rule, [update]), update)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(ALL)), st.permutations(range(6)), st.lists(st.integers(1, 40_000), min_size=6, max_size=6))
def test_the_order_of_the_devices_changes_no_bit(name: str, order: list[int], weights: list[int]) -> None:
    updates = [from_device(n, float(weight)) for n, weight in enumerate(weights)]
    assert same_bits(applied(ALL[name], updates), applied(ALL[name], [updates[n] for n in order]))


@pytest.mark.parametrize("rule", [MEDIAN, trimmed_mean(0.2), krum(1)])
def test_weights_count_nothing_where_the_paper_has_none(rule: Rule) -> None:
    plain, weighted = [from_device(n) for n in range(5)], [from_device(n, 10.0**n) for n in range(5)]
    assert same_bits(applied(rule, plain), applied(rule, weighted))


@rules
def test_a_change_of_the_head_alone_arrives(rule: Rule) -> None:
    head = {name: tensor + 0.25 for name, tensor in STATE.groups[HEAD].items()}
    result = applied(rule, [STATE.with_groups({HEAD: head})] * 5)
    for name, tensor in STATE.groups[HEAD].items():
        assert (result.groups[HEAD][name] - tensor > 0.1).all()
    assert same_bits(result.only(PAIRS), STATE.only(PAIRS))


@rules
def test_without_an_update_the_state_stays(rule: Rule) -> None:
    state = ServerState(STATE)
    assert rule.server.apply(state, iter([])) is state


@rules
def test_apply_changes_neither_state_nor_updates(rule: Rule) -> None:
    state, updates = random_update(99), [random_update(n) for n in range(5)]
    result = applied(rule, updates, state)
    assert same_bits(state, STATE)
    assert all(same_bits(update, random_update(n)) for n, update in enumerate(updates))
    places = {tensor.data_ptr() for update in (state, *updates) for tensor in named_tensors(update).values()}
    assert not places & {tensor.data_ptr() for tensor in named_tensors(result).values()}
    assert (result.weight, result.facts, result.origin) == (1.0, {}, None)


@pytest.mark.parametrize("bound", [0.1, math.inf])
def test_the_norm_bound_has_one_update_alive_at_a_time(bound: float) -> None:
    assert most_alive(lambda updates: applied(norm_bound(bound), updates)) == 0


@rules
def test_the_rest_of_the_contract_is_fedavgs(rule: Rule) -> None:
    """But for the step, which is no weighted sum of what devices send."""
    assert rule.traits == replace(FEDAVG.traits, linear=False)
    assert FEDAVG.traits.linear
    assert rule.device == FEDAVG.device
    state = rule.server.init(STATE)
    assert state == ServerState(STATE)
    assert rule.server.model(state).update is rule.server.dispatch(state, 3, AdapterSize(2, 2.0), 1) is STATE


UPDATES = [random_update(n, float(1 + n)) for n in range(5)]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("rule=median",), MEDIAN),
        (("rule=trimmed_mean", "trimmed_mean.trim=0.4"), trimmed_mean(0.4)),
        (("rule=trimmed_mean",), trimmed_mean(0.1)),
        (("rule=krum", "krum.byzantine=0"), krum(0)),
        (("rule=krum",), krum(1)),
        (("rule=norm_bound", "norm_bound.bound=0.5"), norm_bound(0.5)),
    ],
    ids=["median", "trimmed_mean-0.4", "trimmed_mean", "krum-0", "krum", "norm_bound-0.5"],
)
def test_a_recipe_names_one_with_its_own_key(overrides: tuple[str, ...], expected: Rule) -> None:
    rule = make_rule(parse_recipe("", [f"federation.{words}" for words in overrides]), 3)
    assert same_bits(applied(rule, UPDATES), applied(expected, UPDATES))
    assert not same_bits(applied(rule, UPDATES), applied(FEDAVG, UPDATES))


def test_the_largest_updates_that_pass_do_not_overflow() -> None:
    values = {name: torch.full_like(tensor, 3e38) for name, tensor in named_tensors(STATE).items()}
    huge = with_tensors(STATE, values)
    for rule in ALL.values():
        assert all(math.isfinite(value) for value in flat(applied(rule, [huge] * 5)))
