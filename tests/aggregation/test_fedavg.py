import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.core.checks import check_finite, check_weight
from fedfit.core.update import AdapterSize, Factors, ServerState, Update, named_tensors, update_of, with_tensors
from fedfit.errors import UpdateRefused
from tests.aggregation.watching import most_alive
from tests.builders import random_update, rule_of, same_bits

RULE = FEDAVG.server
STATE = ServerState(random_update(99))


def averaged(updates: Iterable[Update], state: ServerState = STATE) -> Update:
    """The adapter after a round."""
    return RULE.apply(state, updates).adapter


def slow_mean(updates: list[Update]) -> dict[str, np.ndarray]:
    """The obvious twin: element by element, with exact sums."""
    total = math.fsum(update.weight for update in updates)
    means = {}
    for name, first in named_tensors(updates[0]).items():
        mean = np.empty(first.shape, dtype=np.float32)
        for place in itertools.product(*map(range, first.shape)):
            terms = [update.weight * float(named_tensors(update)[name][place]) for update in updates]
            mean[place] = np.float32(math.fsum(terms) / total)
        means[name] = mean
    return means


def test_the_table_names_the_rule() -> None:
    assert rule_of("fedavg") is FEDAVG


@pytest.mark.parametrize("weights", [(1, 1, 1), (40_000, 12_345, 7), (0.2, 0.3, 0.5), (1e-3, 1e-6, 2e-3)])
def test_it_is_the_weighted_mean_of_factors_and_head(weights: tuple[float, ...]) -> None:
    updates = [random_update(seed, weight) for seed, weight in enumerate(weights)]
    result = averaged(iter(updates))
    for name, expected in slow_mean(updates).items():
        np.testing.assert_array_almost_equal_nulp(named_tensors(result)[name].numpy(), expected, nulp=1)
    assert {name: pair.scale for name, pair in result.factors.items()} == dict.fromkeys(STATE.adapter.factors, 2.0)
    assert {tensor.dtype for tensor in named_tensors(result).values()} == {torch.float32}


def test_by_hand() -> None:
    def update(value: float, weight: float) -> Update:
        pair = Factors(torch.full((1, 2), value), torch.full((2, 1), -value), 1.0)
        return update_of({"m": pair}, {"head": {"bias": torch.tensor([10 * value])}}, weight)

    # (3·1 + 1·5) / 4 = 2
    result = averaged([update(1, 3), update(5, 1)], ServerState(update(0, 1)))
    assert result.factors["m"].a.tolist() == [[2.0, 2.0]]
    assert result.factors["m"].b.tolist() == [[-2.0], [-2.0]]
    assert result.groups["head"]["bias"].tolist() == [20.0]


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 1e12), st.integers(0, 1000))
def test_one_device_gives_its_own_update_to_the_bit(weight: float, seed: int) -> None:
    update = random_update(seed, weight)
    assert same_bits(averaged([update]), update)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(5)), st.lists(st.integers(1, 40_000), min_size=5, max_size=5))
def test_the_order_of_the_devices_changes_no_bit(order: list[int], weights: list[int]) -> None:
    updates = [random_update(seed, float(weight)) for seed, weight in enumerate(weights)]
    assert same_bits(averaged(updates), averaged([updates[n] for n in order]))


@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_only_the_ratio_of_the_weights_matters(factor: float) -> None:
    weights = (3.0, 5.0, 11.0)
    plain = averaged([random_update(n, weight) for n, weight in enumerate(weights)])
    scaled = averaged([random_update(n, weight * factor) for n, weight in enumerate(weights)])
    for name, tensor in named_tensors(plain).items():
        torch.testing.assert_close(named_tensors(scaled)[name], tensor, rtol=2e-7, atol=0)


def test_without_an_update_the_state_stays() -> None:
    assert RULE.apply(STATE, iter([])) is STATE


def test_apply_changes_neither_state_nor_updates() -> None:
    state, updates = random_update(99), [random_update(n) for n in range(3)]
    result = averaged(updates, ServerState(state))
    assert same_bits(state, STATE.adapter)
    assert all(same_bits(update, random_update(n)) for n, update in enumerate(updates))
    places = {tensor.data_ptr() for update in (state, *updates) for tensor in named_tensors(update).values()}
    assert not places & {tensor.data_ptr() for tensor in named_tensors(result).values()}


def test_one_update_is_alive_at_a_time() -> None:
    assert most_alive(averaged) == 0


def test_dispatch_and_model_are_the_whole_adapter() -> None:
    assert RULE.init(STATE.adapter) == STATE
    assert RULE.begin(STATE, 1) is STATE
    job = RULE.model(STATE)
    assert job.update is STATE.adapter
    assert job.merged_delta == {}
    assert RULE.dispatch(STATE, 3, AdapterSize(2, 2.0), 1) is STATE.adapter


def test_what_a_rule_keeps_beside_the_adapter_stays() -> None:
    state = ServerState(STATE.adapter, {"moment": torch.ones(2)}, {"rounds": 3})
    after = RULE.apply(state, [random_update(1)])
    assert (after.tensors, after.numbers) == (state.tensors, state.numbers)


@pytest.mark.parametrize("size", [AdapterSize(1, 2.0), AdapterSize(3, 2.0), AdapterSize(2, 1.0)])
def test_one_size_for_all_after_a_resize(size: AdapterSize) -> None:
    with pytest.raises(ValueError, match="resize it first"):
        RULE.dispatch(STATE, 3, size, 1)
    resized = RULE.resize(STATE, size, 5)
    assert same_bits(resized.adapter, resize_update(STATE.adapter, size, seed=5))
    assert RULE.dispatch(resized, 3, size, 1) is resized.adapter
    assert RULE.resize(resized, size, 5) is resized
    assert FEDAVG.traits.mixed_ranks is False


def test_names_there_and_back() -> None:
    update = random_update()
    tensors = named_tensors(update)
    assert len(tensors) == 2 * 2 + 2
    again = with_tensors(update, tensors)
    assert same_bits(again, update)
    assert (again.weight, again.facts) == (1.0, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["a", "b", "head", "weight", "fact"])
def test_what_is_not_finite_is_refused(place: str, value: float) -> None:
    update = random_update()
    check_finite(update)
    if place == "weight":
        update = replace(update, weight=value)
    elif place == "fact":
        update = replace(update, facts={"train_loss": value})
    else:
        pair = update.factors["layer.1.query"]
        {"a": pair.a, "b": pair.b, "head": update.groups["head"]["classifier.weight"]}[place][1, 1] = value
    with pytest.raises(UpdateRefused):
        check_finite(update)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf])
def test_a_weight_that_is_no_number_of_samples_is_refused(weight: float) -> None:
    with pytest.raises(UpdateRefused, match="weight"):
        check_finite(random_update(weight=weight))


@pytest.mark.parametrize("weight", [17.5, 18.0, 1e300])
def test_a_weight_beyond_the_registered_samples_is_refused(weight: float) -> None:
    for held in (1.0, 17.0):
        check_weight(random_update(weight=held), 17)
    with pytest.raises(UpdateRefused, match="the device registered 17"):
        check_weight(random_update(weight=weight), 17)


def test_the_largest_updates_that_pass_do_not_overflow() -> None:
    pair = Factors(torch.full((1, 1), 3e38), torch.full((1, 1), -3e38), 1.0)
    update = update_of({"m": pair}, weight=2.0**53)
    check_finite(update)
    assert same_bits(averaged([update] * 1000, ServerState(update)), update)
