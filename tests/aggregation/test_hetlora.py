import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.hetlora import HETLORA, product_norm
from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order
from fedfit.core.update import AdapterSize, Factors, ServerState, Update, named_tensors, update_of
from fedfit.experiment.build import Experiment
from fedfit.records import RoundResult
from tests.aggregation.watching import most_alive
from tests.builders import link_of, packed, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

RULE = HETLORA.server
RANK, SCALE = 4, 1.5
STATE = random_update(99, rank=RANK, scale=SCALE)
MODULES = list(STATE.factors)


def updates_of(ranks: tuple[int, ...], weights: tuple[float, ...] = ()) -> list[Update]:
    """One random update a device, each larger than the one before, so that the norms differ; weights of 1 if none are given."""
    pairs = zip(ranks, weights or (1.0,) * len(ranks), strict=True)
    return [scaled(random_update(n, weight, rank, SCALE), 1.0 + n) for n, (rank, weight) in enumerate(pairs)]


def scaled(update: Update, factor: float) -> Update:
    return update.with_factors({n: Factors(p.a, p.b * factor, p.scale) for n, p in update.factors.items()})


def averaged(updates: Iterable[Update], state: Update = STATE) -> Update:
    """The global adapter after a round from ``state``."""
    return RULE.apply(ServerState(state), updates).adapter


def fedavg(updates: Iterable[Update]) -> Update:
    return FEDAVG.server.apply(ServerState(STATE), updates).adapter


def padded(update: Update, rank: int) -> dict[str, Tensor]:
    """The update as tensors of the global rank, in float64, zeros written out."""
    result = {name: tensor.double() for name, tensor in named_tensors(update).items()}
    for name, pair in update.factors.items():
        a, b = torch.zeros(rank, pair.a.shape[1]), torch.zeros(pair.b.shape[0], rank)
        for row in range(len(pair.a)):
            a[row], b[:, row] = pair.a[row], pair.b[:, row]
        result[f"lora_A.{name}"], result[f"lora_B.{name}"] = a.double(), b.double()
    return result


def dense_norm(update: Update) -> float:
    """The norm of the block diagonal of all ``s·B·A``, each written out."""
    blocks = [pair.scale * pair.b.double() @ pair.a.double() for pair in update.factors.values()]
    return float(torch.block_diag(*blocks).norm())  # type: ignore[no-untyped-call]


def slow_mean(updates: list[Update], rank: int = RANK) -> dict[str, Tensor]:
    """The slow twin: dense norms, explicit zeros, normalised weights."""
    shares = [update.weight * dense_norm(update) for update in updates]
    rows = [padded(update, rank) for update in updates]
    total = math.fsum(shares)
    return {
        name: torch.stack([share / total * row[name] for share, row in zip(shares, rows, strict=True)]).sum(0)
        for name in rows[0]
    }


def close(left: Update, right: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    for name, tensor in named_tensors(left).items():
        torch.testing.assert_close(tensor.double(), right[name].double(), rtol=tolerance, atol=tolerance)


def sent_to(rank: int, state: Update = STATE) -> Update:
    return RULE.dispatch(ServerState(state), 3, AdapterSize(rank, 123.0), 1)


def test_what_it_says_of_itself() -> None:
    assert rule_of("hetlora") is HETLORA
    traits, groups = HETLORA.traits, STATE.present
    flags = (traits.mixed_ranks, traits.fixed_rank, traits.uniform, traits.supports_server_optimizer)
    assert flags == (True, False, True, True)
    assert traits.derivable == traits.private == frozenset()
    assert all(traits.trained(number, groups) == groups for number in range(4))
    assert RULE.init(STATE) == ServerState(STATE)
    assert RULE.model(ServerState(STATE)).update is STATE


# What is sent


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_device_is_sent_the_first_rows_at_the_scale_of_the_whole(rank: int) -> None:
    sent = sent_to(rank)
    assert sent.groups["head"] is STATE.groups["head"]
    assert list(sent.factors) == MODULES
    for name, pair in sent.factors.items():
        whole = STATE.factors[name]
        assert pair.scale == SCALE
        assert pair.a.tolist() == whole.a.tolist()[:rank]
        assert pair.b.t().tolist() == whole.b.t().tolist()[:rank]


def test_the_whole_rank_is_sent_as_it_is() -> None:
    assert sent_to(RANK) is STATE


@pytest.mark.parametrize("rank", [-1, 0, RANK + 1])
def test_a_rank_that_cannot_be_cut(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"layer.0.query: rank {rank} of a global adapter of rank 4"):
        sent_to(rank)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_padding_undoes_truncation_where_nothing_was_cut(rank: int) -> None:
    """A state with zeros beyond ``rank``, sent and returned untouched, is the same state: the product is not rescaled."""
    low = random_update(5, rank=rank, scale=SCALE)
    tensors = padded(low, RANK)
    factors = {n: Factors(tensors[f"lora_A.{n}"].float(), tensors[f"lora_B.{n}"].float(), SCALE) for n in MODULES}
    state = update_of(factors, {"head": low.groups["head"]})
    for name, pair in sent_to(rank, state).factors.items():
        whole = state.factors[name]
        torch.testing.assert_close(pair.scale * pair.b @ pair.a, whole.scale * whole.b @ whole.a)
    assert same_bits(averaged([sent_to(rank, state)] * 3, state), state)


def test_both_ways_shrink_with_the_rank() -> None:
    """RoBERTa's shape: k·(768 + 768)·4 bytes a module, the header aside."""
    state = update_of({"m": Factors(torch.randn(64, 768), torch.randn(768, 64), 0.5)})
    for rank in (8, 16, 32, 64):
        payload = packed(sent_to(rank, state)).payload
        assert len(payload) - 8 - int.from_bytes(payload[:8], "little") == rank * (768 + 768) * 4


# The weights


def test_the_norm_is_that_of_the_whole_update() -> None:
    for seed in range(5):
        for rank in (1, 3, 8):  # 8 is above both dimensions of the product
            update = random_update(seed, rank=rank, scale=0.3)
            mixed = update.with_factors({n: replace(p, scale=1.0 + i) for i, (n, p) in enumerate(update.factors.items())})
            for either in (update, mixed):
                assert product_norm(either) == pytest.approx(dense_norm(either), rel=1e-12)


def test_the_norm_of_a_product_that_cancels() -> None:
    """B = (v, −v/3) and A = (w; 3w): BA is zero but for rounding, the Gram matrices are not; no root of a negative number."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        v, w = torch.randn(5, 1, generator=generator).double(), torch.randn(1, 6, generator=generator).double()
        pair = Factors(torch.cat([w, 3 * w]), torch.cat([v, -v / 3], dim=1), 1.0)
        assert 0 <= product_norm(update_of({"m": pair})) < 1e-6 * float(v.norm() * w.norm())


def test_by_hand() -> None:
    """Norms: 2·|(0, 3)|·|(4, 0)| = 24 at rank 1, and 2·‖diag(1, 0)‖·4 = 8 at rank 2: weights ¾ and ¼."""
    low = Factors(torch.tensor([[4.0, 0]]), torch.tensor([[0.0], [3.0]]), 2.0)
    high = Factors(torch.tensor([[4.0, 0], [0, 8]]), torch.tensor([[1.0, 0], [0, 0]]), 2.0)
    one = update_of({"m": low}, {"head": {"bias": torch.tensor([4.0])}})
    two = update_of({"m": high}, {"head": {"bias": torch.zeros(1)}})
    state = update_of({"m": Factors(torch.ones(2, 2), torch.ones(2, 2), 2.0)}, {"head": {"bias": torch.ones(1)}})
    assert (product_norm(one), product_norm(two)) == (24.0, 8.0)
    result = averaged([one, two], state)
    assert result.factors["m"].a.tolist() == [[4.0, 0.0], [0.0, 2.0]]  # ¾·4 + ¼·4; ¾·0 + ¼·8
    assert result.factors["m"].b.tolist() == [[0.25, 0.0], [2.25, 0.0]]  # ¼·1; ¾·3
    assert result.groups["head"]["bias"].tolist() == [3.0]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (40_000, 12_345, 7, 900), (0.2, 0.3, 0.4, 0.1), (1e-3, 1e-6, 2e-3, 1e-3)])
@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (2, 2, 2, 2), (4, 4, 4, 4), (4, 1, 1, 1)])
def test_it_is_the_mean_by_norms_of_the_padded_factors(ranks: tuple[int, ...], weights: tuple[float, ...]) -> None:
    updates = updates_of(ranks, weights)
    result = averaged(iter(updates))
    close(result, slow_mean(updates), 2e-6)
    assert {tensor.dtype for tensor in named_tensors(result).values()} == {torch.float32}
    assert {(pair.scale, len(pair.a)) for pair in result.factors.values()} == {(SCALE, RANK)}


def test_the_norms_do_decide() -> None:
    updates = updates_of((4, 4, 4))
    difference = max(
        float((tensor - named_tensors(fedavg(updates))[name]).abs().max())
        for name, tensor in named_tensors(averaged(updates)).items()
    )
    assert difference > 0.1


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 11)])
def test_equal_ranks_and_norms_give_fedavg(weights: tuple[float, ...]) -> None:
    updates = [random_update(n, weight, RANK, SCALE) for n, weight in enumerate(weights)]
    equal = [scaled(update, 10 / product_norm(update)) for update in updates]
    close(averaged(equal), named_tensors(fedavg(equal)))


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 11)])
def test_equal_ranks_differ_from_fedavg_by_the_weights_alone(weights: tuple[float, ...]) -> None:
    """``Σ (q_i − p_i) x_i``, p_i the shares of the weights and q_i those of the weights times the norms."""
    updates = updates_of((4, 4, 4), weights)
    norms = [weight * dense_norm(update) for weight, update in zip(weights, updates, strict=True)]
    shares = [norm / sum(norms) - weight / sum(weights) for norm, weight in zip(norms, weights, strict=True)]
    other = named_tensors(fedavg(updates))
    for name, tensor in named_tensors(averaged(updates)).items():
        rows = [share * named_tensors(update)[name].double() for share, update in zip(shares, updates, strict=True)]
        torch.testing.assert_close(tensor.double() - other[name].double(), sum(rows, torch.tensor(0.0)), rtol=0, atol=2e-6)


def test_the_bias_of_the_product_is_its_closed_form() -> None:
    """``Σ q_i B_iA_i − B·A = ½ Σ_ij q_i q_j (B_i − B_j)(A_i − A_j)``, with the padded factors."""
    updates = updates_of((1, 2, 3, 4))
    norms = [dense_norm(update) for update in updates]
    shares = [norm / sum(norms) for norm in norms]
    rows = [padded(update, RANK) for update in updates]
    result = averaged(updates)
    for name, pair in result.factors.items():
        exact, bias = torch.zeros(5, 6).double(), torch.zeros(5, 6).double()
        for share, row in zip(shares, rows, strict=True):
            exact += share * row[f"lora_B.{name}"] @ row[f"lora_A.{name}"]
            for other, another in zip(shares, rows, strict=True):
                gap_a = row[f"lora_A.{name}"] - another[f"lora_A.{name}"]
                gap_b = row[f"lora_B.{name}"] - another[f"lora_B.{name}"]
                bias += 0.5 * share * other * gap_b @ gap_a
        torch.testing.assert_close(exact - pair.b.double() @ pair.a.double(), bias, rtol=1e-5, atol=1e-5)
        assert float(bias.norm()) > 0.1


def untrained(update: Update) -> Update:
    return scaled(update, 0.0)


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 11)])
def test_where_all_products_are_zero_the_weights_are_those_of_fedavg(weights: tuple[float, ...]) -> None:
    updates = [untrained(random_update(n, weight, RANK, SCALE)) for n, weight in enumerate(weights)]
    assert same_bits(averaged(updates), fedavg(updates))


@pytest.mark.parametrize("zeros", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_a_zero_product_beside_others_counts_nothing(zeros: tuple[int, ...]) -> None:
    """Whether it comes first, when no norm is known yet, or later: the mean is that of the others."""
    updates = updates_of((4, 3, 2))
    mixed = [untrained(update) if n in zeros else update for n, update in enumerate(updates)]
    expected = averaged([update for n, update in enumerate(updates) if n not in zeros])
    close(averaged(mixed), named_tensors(expected), 2e-7)


# Invariants


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e12), st.integers(1, RANK), st.integers(0, 100))
def test_one_device_alone_gives_its_own_update_padded_to_the_bit(weight: float, rank: int, seed: int) -> None:
    """Its own rows to the bit, and zeros beyond its rank, whatever the state had there."""
    update = random_update(seed, weight, rank, SCALE)
    result = averaged([update])
    for name, expected in padded(update, RANK).items():
        assert torch.equal(named_tensors(result)[name], expected.float())


def test_rows_that_only_some_hold_are_pulled_towards_zero() -> None:
    """Rank 1 and rank 2 with norms of 3 : 1: the second row is a quarter of what the second device has there."""
    first, second = random_update(1, rank=1, scale=SCALE), random_update(2, rank=2, scale=SCALE)
    first, second = scaled(first, 3 / product_norm(first)), scaled(second, 1 / product_norm(second))
    result = averaged([first, second])
    for name, pair in result.factors.items():
        torch.testing.assert_close(pair.a[1], 0.25 * second.factors[name].a[1])
        torch.testing.assert_close(pair.b[:, 1], 0.25 * second.factors[name].b[:, 1])
        assert not pair.a[2:].any()
        assert not pair.b[:, 2:].any()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(1, 40_000), min_size=4, max_size=4))
def test_the_order_of_the_devices_does_not_matter(order: list[int], weights: list[int]) -> None:
    updates = updates_of((1, 2, 3, 4), tuple(map(float, weights)))
    close(averaged(updates), named_tensors(averaged([updates[n] for n in order])), 2e-7)


@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_only_the_ratio_of_the_weights_matters(factor: float) -> None:
    plain = averaged(updates_of((1, 2, 3), (3, 5, 11)))
    times = averaged(updates_of((1, 2, 3), (3 * factor, 5 * factor, 11 * factor)))
    close(times, named_tensors(plain), 2e-7)


def quarter(update: Update) -> Update:
    """The same model: α times four, both factors halved, which is exact in floating point."""
    return update.with_factors({n: Factors(p.a / 2, p.b / 2, p.scale * 4) for n, p in update.factors.items()})


def test_another_scale_of_the_same_products_is_the_same_model_to_the_bit() -> None:
    updates = updates_of((1, 2, 3, 4))
    for rank in (1, 2, 3):
        assert same_bits(sent_to(rank, quarter(STATE)), quarter(sent_to(rank)))
    assert [product_norm(quarter(update)) for update in updates] == [product_norm(update) for update in updates]
    assert same_bits(averaged(map(quarter, updates), quarter(STATE)), quarter(averaged(updates)))


def test_without_an_update_the_state_stays() -> None:
    state = ServerState(STATE)
    assert RULE.apply(state, iter([])) is state


def test_apply_changes_neither_state_nor_updates() -> None:
    state, updates = random_update(99, rank=RANK, scale=SCALE), updates_of((1, 2, 3, 4))
    result = averaged(updates, state)
    assert same_bits(state, STATE)
    assert all(same_bits(update, again) for update, again in zip(updates, updates_of((1, 2, 3, 4)), strict=True))
    places = {tensor.data_ptr() for update in (state, *updates) for tensor in named_tensors(update).values()}
    assert not places & {tensor.data_ptr() for tensor in named_tensors(result).values()}


def test_resizing_keeps_the_product_as_fedavg_does() -> None:
    for rank in (2, 6):
        size = AdapterSize(rank, 0.7)
        assert same_bits(RULE.resize(ServerState(STATE), size, 5).adapter, resize_update(STATE, size, seed=5))


def test_one_update_is_alive_at_a_time() -> None:
    assert most_alive(averaged, lambda seed: random_update(seed, rank=1 + seed % 4, scale=SCALE)) == 0


def test_no_matrix_of_the_products_size_is_made() -> None:
    """d = k = 60,000: one dense product would take 60,000² · 8 bytes = 28.8 GB."""

    def wide(rank: int) -> Update:
        generator = torch.Generator().manual_seed(rank)
        a, b = torch.randn(rank, 60_000, generator=generator), torch.randn(60_000, rank, generator=generator)
        return update_of({"m": Factors(a, b, 1.0)})

    result = averaged([wide(1), wide(3)], wide(4)).factors["m"]
    assert (result.a.shape, result.b.shape) == ((4, 60_000), (60_000, 4))


# A whole federation


def experiment(folder: Path, ranks: tuple[int, ...]) -> Experiment:
    federation = {"rule": "hetlora", "rounds": 3, "devices": 3, "devices_per_round": 3, "ranks": ranks}
    return tiny_experiment(tiny_recipe(folder, adapter={"rank": 4}, federation=federation), None)


def test_a_federation_of_mixed_ranks(tiny_bert: Path) -> None:
    """Bytes fall by 4·Σ(d + k) a rank: 4·(32 + 32) for each of 2 layers' query and value, the header aside; it repeats."""

    def whole() -> list[RoundResult]:
        return list(experiment(tiny_bert, (1, 2, 4)).run())

    results = whole()
    assert all(result.record.refused == 0 for result in results)
    for result in results[1:]:
        for direction in ("downlink_bytes", "uplink_bytes"):
            sizes = [getattr(device, direction) for device in result.devices]
            for size, rank in zip(sizes, (1, 2, 4), strict=True):
                assert abs(size - sizes[2] + (4 - rank) * 4 * 64 * 4) < 64  # digits of the loss in the header
    assert not same_bits(results[1].state.adapter, results[3].state.adapter)
    for pair in results[3].state.adapter.factors.values():
        assert len(pair.a) == 4
        assert (pair.b.norm(dim=0) > 0).all()  # the device of rank 4 keeps all rows alive
    assert same_bits(whole()[-1].state.adapter, results[-1].state.adapter)


def test_a_changed_state_changes_what_devices_send_back(tiny_bert: Path) -> None:
    """A change of a row that a device holds reaches it, one beyond its rank does not."""
    made = experiment(tiny_bert, (2, 2, 2))
    link = link_of(made)

    def uploaded(state: Update) -> Update:
        (reply,) = link.exchange([Order(1, 0, packed(sent_to(2, state)), state.present)])
        assert reply.packet is not None
        return PlainCodec().decode(reply.packet)

    def changed(row: int) -> Update:
        factors = {}
        for name, pair in made.initial.factors.items():
            a, b = pair.a.clone(), pair.b.clone()
            a[row] += 0.1
            b[:, row] += 0.1
            factors[name] = Factors(a, b, pair.scale)
        return made.initial.with_factors(factors)

    plain = uploaded(made.initial)
    assert not same_bits(uploaded(changed(1)), plain)
    assert same_bits(uploaded(changed(2)), plain)


def test_rows_that_no_device_holds_are_lost(tiny_bert: Path) -> None:
    """The formula's own weakness: without a device of the global rank, the rows beyond are zero in both factors for good."""
    results = list(experiment(tiny_bert, (1, 2, 2)).run())
    for result in results[1:]:
        for pair in result.state.adapter.factors.values():
            assert not pair.a[2:].any()
            assert not pair.b[:, 2:].any()
