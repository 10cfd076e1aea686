import gc
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules import flexlora
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.core.update import AdapterSize, Factors, ServerState, Update, update_of
from tests.builders import random_update, rule_of, same_bits

RULE = rule_of("flexlora").server
SIZE = AdapterSize(4, 1.5)
START = resize_update(random_update(99), SIZE, seed=0)
STATE = ServerState(START)


def averaged(updates: Iterable[Update], adapter: Update = START) -> Update:
    """The adapter after a round from ``adapter``."""
    return RULE.apply(ServerState(adapter), updates).adapter


# Ranks and scales by device; products of random_update are (5, 6), so that rank 5 is the whole.
MIXED = [(1, 8.0), (2, 2.0), (3, 4.0), (2, 0.5)]


def product(factors: Factors) -> Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def dense_mean(updates: list[Update], rank: int) -> dict[str, Tensor]:
    """The slow twin, as the paper has it: whole matrices, summed one after another, and their SVD."""
    total = sum(update.weight for update in updates)
    means = {}
    for name in updates[0].factors:
        mean = torch.zeros(5, 6, dtype=torch.float64)
        for update in updates:
            mean += update.weight / total * product(update.factors[name])
        left, values, right = torch.linalg.svd(mean, full_matrices=False)
        means[name] = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    return means


def mixed(weights: tuple[float, ...]) -> list[Update]:
    return [random_update(n, w, rank, scale) for n, (w, (rank, scale)) in enumerate(zip(weights, MIXED, strict=True))]


def close(left: Update, right: Update) -> None:
    for name, factors in left.factors.items():
        torch.testing.assert_close(product(factors), product(right.factors[name]), rtol=1e-5, atol=1e-5)
    for name, tensor in left.groups["head"].items():
        torch.testing.assert_close(tensor, right.groups["head"][name], rtol=2e-7, atol=1e-7)


def test_the_table_names_the_rule() -> None:
    traits = rule_of("flexlora").traits
    assert (traits.mixed_ranks, traits.supports_server_optimizer, traits.linear) == (True, False, False)


@pytest.mark.parametrize("rank", [1, 2, 4, 5])
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (40_000, 12_345, 7, 900), (0.2, 0.3, 0.4, 0.1), (1e-3, 1e-6, 2e-3, 1e-3)])
def test_it_is_the_truncated_mean_of_the_products(weights: tuple[float, ...], rank: int) -> None:
    updates = mixed(weights)
    state = RULE.resize(STATE, AdapterSize(rank, 0.7), 3)
    result = RULE.apply(state, iter(updates)).adapter
    for name, expected in dense_mean(updates, rank).items():
        factors = result.factors[name]
        assert (factors.a.shape, factors.b.shape, factors.scale) == ((rank, 6), (5, rank), 0.7)
        assert (factors.a.dtype, factors.b.dtype) == (torch.float32, torch.float32)
        assert float((product(factors) - expected).norm() / expected.norm()) < 1e-6


def test_by_hand() -> None:
    """Weights 3 and 1: ΔW = ¾·2·(1, 0)ᵀ(4, 0) + ¼·1·(0, 1)ᵀ(0, 8) = diag(6, 2); at rank 1 diag(6, 0).

    The old A has one row of norm 2, so A = (2, 0), and B = (6 / (s·2), 0) with s = 3 is (1, 0).
    """
    one = update_of({"m": Factors(torch.tensor([[4.0, 0]]), torch.tensor([[1.0], [0]]), 2.0)}, weight=3.0)
    two = update_of({"m": Factors(torch.tensor([[0, 8.0]]), torch.tensor([[0], [1.0]]), 1.0)})
    state = update_of({"m": Factors(torch.tensor([[0, 2.0]]), torch.zeros(2, 1), 3.0)})
    result = averaged([one, two], state).factors["m"]
    torch.testing.assert_close(result.a, torch.tensor([[2.0, 0]]))
    torch.testing.assert_close(result.b, torch.tensor([[1.0], [0]]))


def test_the_head_is_averaged_as_fedavg_does() -> None:
    weights = (40_000.0, 12_345.0, 7.0, 900.0)
    same_rank = [random_update(n, weight) for n, weight in enumerate(weights)]
    expected = FEDAVG.server.apply(ServerState(random_update(99)), same_rank).adapter
    result = averaged(
        update.with_groups({"head": same.groups["head"]}) for update, same in zip(mixed(weights), same_rank, strict=True)
    )
    for name, tensor in expected.groups["head"].items():
        torch.testing.assert_close(result.groups["head"][name], tensor, rtol=1e-7, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-6, 1e12), st.integers(1, 4), st.integers(0, 100))
def test_one_device_alone_gives_its_own_product_and_head(weight: float, rank: int, seed: int) -> None:
    update = random_update(seed, weight, rank, scale=3.0)
    close(averaged([update]), update)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_of_the_devices_does_not_matter(order: list[int]) -> None:
    updates = mixed((3, 5, 11, 2))
    first, second = averaged(updates), averaged([updates[n] for n in order])
    close(first, second)
    for name, factors in first.factors.items():
        torch.testing.assert_close(factors.a, second.factors[name].a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_only_the_ratio_of_the_weights_matters(factor: float) -> None:
    weights = (3.0, 5.0, 11.0, 2.0)
    close(averaged(mixed(weights)), averaged(mixed(tuple(weight * factor for weight in weights))))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_directions_that_nobody_used_can_learn(order: tuple[int, int]) -> None:
    """Two devices of rank 1 under a global rank of 4: two columns of B are zero, their rows of A are of the old A's space."""
    updates = [random_update(n, 1.0, 1) for n in order]
    result = averaged(updates)
    for name, factors in result.factors.items():
        old = START.factors[name].a
        assert not factors.b[:, 2:].any()
        assert (factors.b[:, :2].norm(dim=0) > 0.1).all()
        size = float(old.square().sum() / 4)
        torch.testing.assert_close(factors.a @ factors.a.T, torch.eye(4) * size, rtol=1e-5, atol=1e-5)
        space, _ = torch.linalg.qr(torch.cat([old, *(update.factors[name].a for update in updates)]).T)
        torch.testing.assert_close(factors.a @ space @ space.T, factors.a, rtol=0, atol=1e-5)
        # To the bit the order changes nothing that matters: the same rows are chosen.
        other = averaged([random_update(n, 1.0, 1) for n in (0, 1)]).factors[name]
        torch.testing.assert_close(factors.a, other.a, rtol=0, atol=1e-5)


def test_untrained_devices_leave_an_adapter_that_can_be_trained() -> None:
    still = [resize_update(random_update(n), AdapterSize(rank, 1.0), 0) for n, rank in enumerate((1, 3))]
    still = [u.with_factors({n: replace(p, b=torch.zeros_like(p.b)) for n, p in u.factors.items()}) for u in still]
    for factors in averaged(still).factors.values():
        assert not factors.b.any()
        assert (factors.a.norm(dim=1) > 0.1).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_device_is_sent_the_best_of_its_rank(rank: int) -> None:
    state = RULE.apply(STATE, mixed((1, 2, 3, 4)))
    sent = RULE.dispatch(state, 3, AdapterSize(rank, 6.0), 1)
    assert sent.groups["head"] is state.adapter.groups["head"]
    for name, factors in sent.factors.items():
        left, values, right = torch.linalg.svd(product(state.adapter.factors[name]), full_matrices=False)
        expected = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
        assert (factors.a.shape, factors.b.shape, factors.scale) == ((rank, 6), (5, rank), 6.0)
        torch.testing.assert_close(product(factors), expected, rtol=1e-5, atol=1e-5)


def test_a_rank_is_cut_once_for_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """For fifty devices of three ranks three cuts, to the bit those that each would get by itself; of another state others."""
    counted: list[int] = []

    def counting(update: Update, size: AdapterSize, seed: int) -> Update:
        counted.append(size.rank)
        return resize_update(update, size, seed)

    monkeypatch.setattr(flexlora, "resize_update", counting)
    server = rule_of("flexlora").server
    for state in (STATE, ServerState(resize_update(random_update(7), SIZE, seed=0))):
        counted.clear()
        for device in range(50):
            size = AdapterSize(1 + device % 3, 2.0)
            sent = server.dispatch(state, device, size, device)
            assert same_bits(sent, resize_update(state.adapter, size, device))
        assert sorted(counted) == [1, 2, 3]


def test_the_global_size_is_sent_as_it_is() -> None:
    assert RULE.dispatch(STATE, 3, SIZE, 1) is START
    assert RULE.init(START) == STATE
    assert RULE.model(STATE).update is START


def test_without_an_update_the_state_stays() -> None:
    assert RULE.apply(STATE, iter([])) is STATE


def test_apply_changes_neither_state_nor_updates() -> None:
    state, updates = resize_update(random_update(99), SIZE, seed=0), mixed((1, 2, 3, 4))
    averaged(updates, state)
    assert same_bits(state, START)
    assert all(same_bits(update, again) for update, again in zip(updates, mixed((1, 2, 3, 4)), strict=True))


def test_a_head_is_gone_before_the_next_update_is_made() -> None:
    heads: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for seed in range(4):
            gc.collect()
            most = max(most, len(heads))
            update = random_update(seed)
            heads.update(update.groups["head"].values())
            yield update
            del update

    averaged(updates())
    assert most == 0


def test_no_matrix_of_the_products_size_is_made() -> None:
    """d = k = 60,000: the dense mean would take 14.4 GB in float32."""

    def wide(rank: int) -> Update:
        generator = torch.Generator().manual_seed(rank)
        a, b = torch.randn(rank, 60_000, generator=generator), torch.randn(60_000, rank, generator=generator)
        return update_of({"m": Factors(a, b, 1.0)})

    result = averaged([wide(1), wide(3)], wide(4)).factors["m"]
    assert (result.a.shape, result.b.shape) == ((4, 60_000), (60_000, 4))
