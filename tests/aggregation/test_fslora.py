import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.fslora import FsLoraKeys
from fedfit.aggregation.table import make_rule
from fedfit.core.update import AdapterSize, Factors, Job, Origin, ServerState, Update, named_tensors, update_of
from fedfit.records import RoundResult
from fedfit.rounds.trainer import Trainer
from fedfit.settings import FederationSettings, Recipe, TrainingSettings
from tests.aggregation.watching import most_alive, record
from tests.builders import packed, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

RULE = rule_of("fslora")
RANK, SCALE = 4, 1.5
STATE = random_update(99, rank=RANK, scale=SCALE)
MODULES = list(STATE.factors)


def averaged(updates: Iterable[Update], state: Update = STATE, rule: Rule = RULE) -> Update:
    """The global adapter after a round from ``state``."""
    return rule.server.apply(ServerState(state), updates).adapter


def fedavg(updates: Iterable[Update]) -> Update:
    return averaged(updates, STATE, FEDAVG)


def sent_to(rank: int, seed: int, state: Update = STATE, rule: Rule = RULE) -> Update:
    return rule.server.dispatch(ServerState(state), 0, AdapterSize(rank, 123.0), seed)


def sketch_of(sent: Factors, whole: Factors) -> list[int]:
    """The index set, from what was sent alone: where each row of A stands in the whole; the columns of B must agree."""
    rows = [[bool(torch.equal(row, other)) for other in whole.a].index(True) for row in sent.a]
    assert torch.equal(sent.b, whole.b[:, rows])
    return rows


def sketches(rank: int, seed: int, state: Update = STATE, rule: Rule = RULE) -> dict[str, list[int]]:
    sent = sent_to(rank, seed, state, rule)
    return {name: sketch_of(pair, state.factors[name]) for name, pair in sent.factors.items()}


def trained(rank: int, seed: int, weight: float = 1.0, state: Update = STATE, rule: Rule = RULE) -> Update:
    """What a device sends back: random numbers of the form of what it was sent."""
    sent = sent_to(rank, seed, state, rule)
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    factors = {name: Factors(draw(pair.a), draw(pair.b), pair.scale) for name, pair in sent.factors.items()}
    head = {name: draw(tensor) for name, tensor in sent.groups.get("head", {}).items()}
    return replace(update_of(factors, {"head": head}, weight), origin=Origin(0, seed))


def slow_mean(updates: list[Update], ranks: list[int]) -> dict[str, Tensor]:
    """The formula, word by word: state + Σ p_i Δ_i, each Δ_i scattered row by row to where its rows were sent from."""
    total = math.fsum(update.weight for update in updates)
    result = {name: tensor.double().clone() for name, tensor in named_tensors(STATE).items()}
    for update, rank in zip(updates, ranks, strict=True):
        assert update.origin is not None
        for name, rows in sketches(rank, update.origin.seed).items():
            old, new = STATE.factors[name], update.factors[name]
            for place, row in enumerate(rows):
                result[f"lora_A.{name}"][row] += update.weight / total * (new.a[place].double() - old.a[row].double())
                result[f"lora_B.{name}"][:, row] += update.weight / total * (new.b[:, place].double() - old.b[:, row].double())
        for name, tensor in update.groups["head"].items():
            result[f"head.{name}"] += update.weight / total * (tensor.double() - STATE.groups["head"][name].double())
    return result


def close(left: Update, right: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    for name, tensor in named_tensors(left).items():
        torch.testing.assert_close(tensor.double(), right[name].double(), rtol=tolerance, atol=tolerance)


def test_what_it_says_of_itself() -> None:
    traits, groups = RULE.traits, STATE.present
    flags = (traits.mixed_ranks, traits.fixed_rank, traits.uniform, traits.supports_server_optimizer)
    assert flags == (True, False, True, True)
    assert traits.derivable == traits.private == frozenset()
    assert all(traits.trained(number, groups) == groups for number in range(4))
    assert RULE.server.init(STATE) == ServerState(STATE)
    assert RULE.server.model(ServerState(STATE)).update is STATE


# What is sent


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_device_is_sent_its_rows_and_columns_at_the_larger_scale(rank: int) -> None:
    for seed in range(20):
        sent = sent_to(rank, seed)
        assert sent.groups["head"] is STATE.groups["head"]
        assert list(sent.factors) == MODULES
        for name, rows in sketches(rank, seed).items():
            assert rows == sorted(set(rows))
            assert len(rows) == rank
            assert sent.factors[name].scale == SCALE * (RANK / rank)


def test_the_whole_rank_is_sent_as_it_is() -> None:
    assert sent_to(RANK, seed=5) is STATE


@pytest.mark.parametrize("rank", [-1, 0, RANK + 1])
def test_a_rank_that_cannot_be_drawn(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"layer.0.query: a sketch of {rank} of 4 rows"):
        sent_to(rank, seed=1)


def test_the_sketch_is_a_function_of_the_seed_and_the_module() -> None:
    wide = random_update(7, rank=16)
    first, again, other = (sketches(8, seed, wide) for seed in (1, 1, 2))
    assert first == again
    assert all(first[name] != other[name] for name in MODULES)
    assert first[MODULES[0]] != first[MODULES[1]]
    alone = wide.with_factors({MODULES[1]: wide.factors[MODULES[1]]})
    assert sketches(8, 1, alone)[MODULES[1]] == first[MODULES[1]]  # what other modules there are does not matter


def test_one_index_set_for_all_modules() -> None:
    wide, rule = random_update(7, rank=16), rule_of("fslora", sketch="shared")
    drawn = [sketches(8, seed, wide, rule) for seed in range(10)]
    assert all(one[MODULES[0]] == one[MODULES[1]] for one in drawn)
    assert len({tuple(one[MODULES[0]]) for one in drawn}) == 10


@pytest.mark.parametrize(("sketch", "sets"), [("per_module", 4), ("shared", 1)])
def test_a_recipe_chooses_one_set_or_one_a_module(sketch: str, sets: int, tiny_bert: Path) -> None:
    """Over the air: what each of three devices is sent in a round, found again among the rows of the whole."""
    keys = {"rule": "fslora", "options": {"fslora": FsLoraKeys(sketch)}, "ranks": (8, 8, 8)}
    made = tiny_experiment(tiny_recipe(tiny_bert, adapter={"rank": 16}, federation=keys), None)
    codec = record(made)
    assert all(result.record.refused == 0 for result in islice(made.run(), 2))
    chosen = []
    for packet in codec.packets[::2]:  # down, up, down, up …
        pairs = [(pair, made.initial.factors[name]) for name, pair in codec.decode(packet).factors.items()]
        chosen.append({tuple(sketch_of(pair, whole)) for pair, whole in pairs})
    assert [len(own) for own in chosen] == [sets] * 3
    assert len(set().union(*chosen)) == 3 * sets, "each device has its own"
    rule = make_rule(Recipe(federation=FederationSettings(rule="fslora")), 3)
    wide = random_update(7, rank=16)
    assert sketches(8, 1, wide, rule) == sketches(8, 1, wide, rule_of("fslora", sketch="per_module"))


def test_every_set_is_equally_likely() -> None:
    """Counts of the six pairs of {0..3} are binomial, N = 3,000 and p = 1/6; so are those of an index with p = k/r = 1/2.

    Five standard deviations: 5·√(3000·5/36) = 102 and 5·√(3000/4) = 137.
    """
    draws = 3000
    for name in MODULES:
        sets = Counter(tuple(sketches(2, seed)[name]) for seed in range(draws))
        assert set(sets) == set(itertools.combinations(range(RANK), 2))
        assert all(abs(count - draws / 6) < 102 for count in sets.values())
        for index in range(RANK):
            assert abs(sum(count for chosen, count in sets.items() if index in chosen) - draws / 2) < 137


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_sketch_is_the_identity_on_average(rank: int) -> None:
    """``E[s·B·S·A] = s·B·A``, with the variance that drawing without replacement has.

    S_jj is r/k with probability k/r, else 0: mean 1, variance r/k − 1, and for j ≠ l the covariance
    ``(r/k)²·k(k−1)/(r(r−1)) − 1 = −(r/k − 1)/(r − 1)``. An entry of the product is ``Σ_j c_j S_jj`` with c_j = s·B_dj·A_jn, so

        Var = (r/k − 1)·(Σc² − ((Σc)² − Σc²)/(r − 1)) = (r/k − 1)·r/(r − 1)·(Σc² − (Σc)²/r).

    The mean of N draws lies within 5 of its standard deviations; the mean square is right within a fifth, on average over
    the 30 entries (that of N = 2,000 draws scatters by a few hundredths).
    """
    draws = 2000
    for name, whole in STATE.factors.items():
        c = SCALE * whole.b.double().t()[:, :, None] * whole.a.double()[:, None, :]
        expected = c.sum(0)
        variance = (RANK / rank - 1) * RANK / (RANK - 1) * (c.square().sum(0) - expected.square() / RANK)
        products = []
        for seed in range(draws):
            sent = sent_to(rank, seed).factors[name]
            products.append(sent.scale * sent.b.double() @ sent.a.double())
        errors = torch.stack(products) - expected
        assert bool((errors.mean(0).abs() < 5 * (variance / draws).sqrt() + 1e-9).all())
        assert abs(float((errors.square().mean(0) / variance).mean()) - 1) < 0.2


def test_both_ways_shrink_to_k_of_r_and_no_index_travels() -> None:
    """RoBERTa's shape: k·(768 + 768)·4 bytes a module, and the header of the packet, which has no list of rows in it."""

    def payload_bytes(packet: bytes) -> int:
        size = int.from_bytes(packet[:8], "little")
        assert set(json.loads(packet[8 : 8 + size])) == {"lora_A.m", "lora_B.m", "__metadata__"}
        assert size < 500
        return len(packet) - 8 - size

    state = update_of({"m": Factors(torch.randn(64, 768), torch.randn(768, 64), 0.5)})
    for rank in (8, 16, 32, 64):
        sent, back = sent_to(rank, 3, state), trained(rank, 3, state=state)
        for update in (sent, back):
            assert payload_bytes(packed(update).payload) == rank * (768 + 768) * 4


# What the server does


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (40_000, 12_345, 7, 900), (0.2, 0.3, 0.4, 0.1)])
@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (2, 2, 2, 2), (1, 1, 1, 1)])
def test_it_is_the_mean_of_what_was_changed(weights: tuple[float, ...], ranks: tuple[int, ...]) -> None:
    updates = [trained(rank, n, weight) for n, (rank, weight) in enumerate(zip(ranks, weights, strict=True))]
    result = averaged(iter(updates))
    close(result, slow_mean(updates, list(ranks)))
    assert {tensor.dtype for tensor in named_tensors(result).values()} == {torch.float32}
    assert {pair.scale for pair in result.factors.values()} == {SCALE}


def test_by_hand() -> None:
    """Rank 3, two devices of rank 1: the rows that they hold go half of the way, the others stay."""
    a, b = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0, 20.0, 40.0]])
    state = update_of({"m": Factors(a, b, 1.0)}, {"head": {"bias": torch.tensor([0.0])}})
    seeds = {sketches(1, seed, state)["m"][0]: seed for seed in range(50)}  # a seed for each row
    pair = Factors(torch.tensor([[9.0]]), torch.tensor([[90.0]]), 3.0)
    updates = [
        replace(update_of({"m": pair}, {"head": {"bias": torch.tensor([bias])}}), origin=origin)
        for bias, origin in ((6.0, Origin(0, seeds[0])), (8.0, Origin(1, seeds[2])))
    ]
    result = averaged(updates, state)
    assert result.factors["m"].a.tolist() == [[5.0], [2.0], [6.5]]  # (1+9)/2, 2, (4+9)/2
    assert result.factors["m"].b.tolist() == [[50.0, 20.0, 65.0]]
    assert result.groups["head"]["bias"].tolist() == [7.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=6), st.integers(0, 1000))
def test_equal_ranks_give_fedavg_to_the_bit(weights: list[float], seed: int) -> None:
    updates = [trained(RANK, seed + n, weight) for n, weight in enumerate(weights)]
    assert same_bits(averaged(updates), fedavg(updates))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1, 1000), min_size=1, max_size=5), st.integers(0, 1000))
def test_rows_that_nobody_held_stay_to_the_bit(weights: list[float], seed: int) -> None:
    state = random_update(seed, rank=12)
    updates = [trained(2, seed + n, weight, state) for n, weight in enumerate(weights)]
    result = averaged(updates, state)
    for name, old in state.factors.items():
        held = {row for n in range(len(weights)) for row in sketches(2, seed + n, state)[name]}
        for row in set(range(12)) - held:
            assert torch.equal(result.factors[name].a[row], old.a[row])
            assert torch.equal(result.factors[name].b[:, row], old.b[:, row])
        for row in held:
            assert not torch.equal(result.factors[name].a[row], old.a[row])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("weight", [1.0, 7.0, 0.3])
def test_one_device_alone_gives_its_own_update_to_the_bit(rank: int, weight: float) -> None:
    update = trained(rank, 5, weight)
    result = averaged([update])
    for name, rows in sketches(rank, 5).items():
        expected_a, expected_b = STATE.factors[name].a.clone(), STATE.factors[name].b.clone()
        expected_a[rows], expected_b[:, rows] = update.factors[name].a, update.factors[name].b
        assert torch.equal(result.factors[name].a, expected_a)
        assert torch.equal(result.factors[name].b, expected_b)
    assert all(torch.equal(tensor, update.groups["head"][name]) for name, tensor in result.groups["head"].items())


def test_what_comes_back_unchanged_changes_nothing() -> None:
    updates = [replace(sent_to(1 + n % 4, n), weight=1.0 + n, origin=Origin(n, n)) for n in range(6)]
    assert same_bits(averaged(updates), STATE)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(1, 40_000), min_size=4, max_size=4))
def test_the_order_of_the_devices_does_not_matter(order: list[int], weights: list[int]) -> None:
    updates = [trained(1 + n, n, float(weight)) for n, weight in enumerate(weights)]
    close(averaged(updates), named_tensors(averaged([updates[n] for n in order])), 2e-7)


@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_only_the_ratio_of_the_weights_matters(factor: float) -> None:
    plain = averaged([trained(1 + n, n, 3.0 + n) for n in range(4)])
    close(averaged([trained(1 + n, n, (3.0 + n) * factor) for n in range(4)]), named_tensors(plain), 2e-7)


def test_the_state_of_another_scale_is_the_same_model() -> None:
    """α doubled and B halved, twice over: what devices are sent, and what comes of it, are the same products."""
    half = STATE.with_factors({n: Factors(p.a, p.b / 2, p.scale * 2) for n, p in STATE.factors.items()})
    for rank in (1, 2, 3):
        for name, pair in sent_to(rank, 3, half).factors.items():
            other = sent_to(rank, 3).factors[name]
            assert torch.equal(pair.scale * pair.b @ pair.a, other.scale * other.b @ other.a)
    updates = [trained(1 + n, n) for n in range(3)]
    halves = [u.with_factors({n: Factors(p.a, p.b / 2, p.scale * 2) for n, p in u.factors.items()}) for u in updates]
    result, other_result = averaged(updates), averaged(halves, half)
    for name, pair in result.factors.items():
        assert torch.equal(pair.a, other_result.factors[name].a)
        assert torch.equal(pair.b, 2 * other_result.factors[name].b)


def test_without_an_update_the_state_stays() -> None:
    state = ServerState(STATE)
    assert RULE.server.apply(state, iter([])) is state


def test_an_update_without_an_origin_is_an_error() -> None:
    with pytest.raises(ValueError, match="origin"):
        averaged([replace(trained(2, 1), origin=None)])


def test_another_seed_in_the_origin_lands_elsewhere() -> None:
    """The seed of the origin alone decides: not the device, not the order."""
    update = trained(2, 1)
    elsewhere = next(seed for seed in range(2, 50) if sketches(2, seed)[MODULES[0]] != sketches(2, 1)[MODULES[0]])
    right = averaged([update])
    assert same_bits(averaged([replace(update, origin=Origin(77, 1))]), right)
    assert not same_bits(averaged([replace(update, origin=Origin(0, elsewhere))]), right)


def test_apply_changes_neither_state_nor_updates() -> None:
    state, updates = random_update(99, rank=RANK, scale=SCALE), [trained(1 + n, n) for n in range(4)]
    result = averaged(updates, state)
    assert same_bits(state, STATE)
    assert all(same_bits(update, trained(1 + n, n)) for n, update in enumerate(updates))
    places = {tensor.data_ptr() for update in (state, *updates) for tensor in named_tensors(update).values()}
    assert not places & {tensor.data_ptr() for tensor in named_tensors(result).values()}


def test_resizing_keeps_the_product_as_fedavg_does() -> None:
    for rank in (2, 6):
        size = AdapterSize(rank, 0.7)
        assert same_bits(RULE.server.resize(ServerState(STATE), size, 5).adapter, resize_update(STATE, size, seed=5))


def test_one_update_is_alive_at_a_time() -> None:
    assert most_alive(averaged, lambda seed: trained(2, seed)) == 0


# The slow twin: full-size factors and S_i in the forward pass


def forward(parts: list[Tensor], x: Tensor, bases: list[Tensor], middles: list[Tensor]) -> Tensor:
    """Two layers and a head: tanh((W0 + B·M·A)·x) each, M the matrix in the middle, scale included."""
    (a0, b0, a1, b1), head = parts[:4], parts[4:]
    for base, a, b, middle in zip(bases, (a0, a1), (b0, b1), middles, strict=True):
        x = torch.tanh(x @ (base + b @ middle @ a).t())
    return x @ head[0].t() + head[1]


def train_by_hand(update: Update, middles: list[Tensor], momentum: float, steps: int = 6) -> dict[str, Tensor]:
    """Steps of SGD on cross-entropy, in float64, gradients by autograd; batches and frozen weights are always the same."""
    generator = torch.Generator().manual_seed(11)
    bases = [torch.randn(5, 6, generator=generator).double(), torch.randn(5, 6, generator=generator).double()]
    bases[1] = bases[1][:, :5]
    tensors = {name: tensor.double().requires_grad_() for name, tensor in named_tensors(update).items()}
    names = [f"lora_{factor}.{module}" for module in MODULES for factor in "AB"]
    names += ["head.classifier.weight", "head.classifier.bias"]
    optimizer = torch.optim.SGD(tensors.values(), lr=0.3, momentum=momentum)
    for _ in range(steps):
        x, labels = torch.randn(9, 6, generator=generator).double(), torch.randint(3, (9,), generator=generator)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward([tensors[n] for n in names], x, bases, middles), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach() for name, tensor in tensors.items()}


def chain(seed: int, rank: int) -> Update:
    """An adapter that fits ``forward``: 6 → 5 → 5 → 3."""
    update = random_update(seed, rank=rank, scale=SCALE)
    second = update.factors[MODULES[1]]
    factors = {MODULES[0]: update.factors[MODULES[0]], MODULES[1]: replace(second, a=second.a[:, :5].contiguous())}
    weight = update.groups["head"]["classifier.weight"][:, :5].contiguous()
    return update_of(factors, {"head": {"classifier.weight": weight, "classifier.bias": torch.zeros(3)}})


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rank", [1, 2, 5, 6])
def test_the_ordinary_adapter_trains_as_the_sketched_one(rank: int, momentum: float) -> None:
    """``ℓ(W0 + s·B·S·A)`` on factors of rank 6, against the adapter of rank k and scale s·r/k that is scattered back."""
    state = chain(5, rank=6)
    sent = sent_to(rank, seed=2, state=state)
    ordinary = [torch.eye(rank).double() * pair.scale for pair in sent.factors.values()]
    small = train_by_hand(sent, ordinary, momentum)
    chosen = sketches(rank, 2, state)
    sketched = []
    for name in MODULES:
        diagonal = torch.zeros(6, dtype=torch.float64)
        diagonal[chosen[name]] = 6 / rank
        sketched.append(SCALE * torch.diag(diagonal))
    slow = train_by_hand(state, sketched, momentum)
    factors = {n: Factors(small[f"lora_A.{n}"].float(), small[f"lora_B.{n}"].float(), sent.factors[n].scale) for n in MODULES}
    head = {n: small[f"head.{n}"].float() for n in state.groups["head"]}
    back = replace(update_of(factors, {"head": head}), origin=Origin(0, 2))
    result = averaged([back], state)
    close(result, slow)
    moved = max(float((slow[name] - tensor).abs().max()) for name, tensor in named_tensors(state).items())
    assert moved > 0.1  # the steps are worth the name
    for name in MODULES:
        others = [row for row in range(6) if row not in chosen[name]]
        assert torch.equal(slow[f"lora_A.{name}"][others].float(), state.factors[name].a[others])


def masked(state: Update, chosen: dict[str, list[int]], rank: int) -> Update:
    """Factors of the whole rank, zero outside the sketch, at scale s·r/k: ``s·B·S·A`` with S the r/k-fold of a projection."""
    factors = {}
    for name, pair in state.factors.items():
        keep = torch.zeros(len(pair.a))
        keep[chosen[name]] = 1
        factors[name] = Factors(pair.a * keep[:, None], pair.b * keep, pair.scale * (len(pair.a) / rank))
    return state.with_factors(factors)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_twin_agrees_on_a_real_transformer(momentum: float, tiny_bert: Path) -> None:
    """The project's own trainer, on the sketch and on the masked whole: the same steps, and the zeros stay zeros."""
    recipe = tiny_recipe(tiny_bert, adapter={"rank": 4})
    made = tiny_experiment(recipe, None)
    parts = made.parts
    trainer = Trainer(parts.model, parts.trunk, parts.task, sgd(momentum), seed=0, rounds=1)
    pairs = made.initial.factors.items()
    noise = {n: torch.randn(p.b.shape, generator=torch.Generator().manual_seed(i)) for i, (n, p) in enumerate(pairs)}
    state = made.initial.with_factors({n: replace(p, b=noise[n] * 0.1) for n, p in pairs})
    chosen = sketches(2, 9, state)

    def train(received: Update) -> Update:
        return trainer.train(Job(received), parts.train, parts.held[0], 1, 0)

    small, slow = train(sent_to(2, 9, state)), train(masked(state, chosen, 2))
    assert int(small.facts["steps"]) >= 4
    for name, rows in chosen.items():
        pair, others = slow.factors[name], [row for row in range(4) if row not in rows]
        assert not pair.a[others].any()
        assert not pair.b[:, others].any()
        torch.testing.assert_close(small.factors[name].a, pair.a[rows], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(small.factors[name].b, pair.b[:, rows], rtol=1e-4, atol=1e-5)
        assert float((pair.a[rows] - state.factors[name].a[rows]).abs().max()) > 1e-3
    for name, tensor in slow.groups["head"].items():
        torch.testing.assert_close(small.groups["head"][name], tensor, rtol=1e-4, atol=1e-5)


def sgd(momentum: float) -> TrainingSettings:
    return TrainingSettings(
        batch_size=8,
        learning_rate=0.1,
        optimizer="sgd",
        momentum=momentum,
        weight_decay=0.0,
        max_grad_norm=0.0,
        local_epochs=3,
        schedule="constant",
    )


def first_step(kind: Any, scale: float) -> list[Tensor]:
    """How far one step moves A and B under ``⟨G, s·B·A⟩``: the gradients are s·Bᵀ·G and s·G·Aᵀ, with one G for every s."""
    pair = random_update(3, rank=2).factors[MODULES[0]]
    a, b = pair.a.double().requires_grad_(), pair.b.double().requires_grad_()
    gradient = torch.randn(5, 6, generator=torch.Generator().manual_seed(4)).double()
    optimizer = kind([a, b], lr=0.01)
    (gradient * (scale * b @ a)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return [a.detach() - pair.a, b.detach() - pair.b]


def test_adam_does_not_see_the_factor_and_sgd_does() -> None:
    """The first step of Adam is lr·g/(|g| + ε): with g and 4g it differs by less than lr·ε/|g|; that of SGD is lr·g."""
    small, large = first_step(torch.optim.Adam, 0.5), first_step(torch.optim.Adam, 0.5 * 4)
    for one, other in zip(small, large, strict=True):
        assert float((one.abs() - 0.01).abs().max()) < 1e-7  # each entry moves by lr
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
    for one, other in zip(first_step(torch.optim.SGD, 0.5), first_step(torch.optim.SGD, 0.5 * 4), strict=True):
        torch.testing.assert_close(4 * one, other)
        assert float(one.abs().max()) > 1e-3


# A whole federation


def federate(folder: Path, rule: str = "fslora", **federation: Any) -> list[RoundResult]:
    keys = {"rule": rule, "rounds": 3, "devices": 3, "devices_per_round": 2, **federation}
    made = tiny_experiment(tiny_recipe(folder, adapter={"rank": 4}, federation=keys), None, samples=50)  # 17, 17 and 16
    return list(made.run())


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_equal_ranks_give_the_federation_of_fedavg_to_the_bit(weighting: str, tiny_bert: Path) -> None:
    mine = federate(tiny_bert, weighting=weighting)
    other = federate(tiny_bert, "fedavg", weighting=weighting)
    assert len(mine) == 4
    for left, right in zip(mine, other, strict=True):
        assert same_bits(left.state.adapter, right.state.adapter)
        assert left.record.metrics == right.record.metrics
        assert left.record.uplink_bytes == right.record.uplink_bytes
    assert not same_bits(mine[0].state.adapter, mine[-1].state.adapter)


def test_by_its_own_rule_devices_weigh_alike(tiny_bert: Path) -> None:
    mine, other = federate(tiny_bert), federate(tiny_bert, "fedavg", weighting="uniform")
    assert same_bits(mine[-1].state.adapter, other[-1].state.adapter)


def test_a_federation_of_mixed_ranks(tiny_bert: Path) -> None:
    """Bytes fall by 4·Σ(d + k) a rank: 4·(32 + 32) for each of 2 layers' query and value, the header aside; it repeats."""
    ranks = (1, 2, 4)
    results = federate(tiny_bert, ranks=ranks, devices_per_round=3)
    assert all(result.record.refused == 0 for result in results)
    for result in results[1:]:
        for direction in ("downlink_bytes", "uplink_bytes"):
            sizes = [getattr(device, direction) for device in result.devices]
            for size, rank in zip(sizes, ranks, strict=True):
                assert abs(size - sizes[2] + (4 - rank) * 4 * 64 * 4) < 64  # digits of scales and loss in the header
    assert not same_bits(results[1].state.adapter, results[3].state.adapter)
    assert {len(pair.a) for pair in results[3].state.adapter.factors.values()} == {4}
    again = federate(tiny_bert, ranks=ranks, devices_per_round=3)
    assert same_bits(again[-1].state.adapter, results[-1].state.adapter)


def test_devices_and_rounds_draw_their_own_sketches(tiny_bert: Path) -> None:
    seen: list[tuple[int, int]] = []
    keys = {"rule": "fslora", "rounds": 3, "ranks": (2, 2, 2)}
    made = tiny_experiment(tiny_recipe(tiny_bert, adapter={"rank": 4}, federation=keys), None)

    def listening(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
        seen.append((device, seed))
        return made.rule.server.dispatch(state, device, size, seed)

    rule = replace(made.rule, server=replace(made.rule.server, dispatch=listening))
    made.federation = replace(made.federation, rule=rule)
    assert len(list(made.run())) == 4
    assert [device for device, _ in seen] == [0, 1, 2] * 3
    wide = random_update(7, rank=16)
    drawn = {tuple(map(tuple, sketches(8, seed, wide).values())) for _, seed in seen}
    assert len(drawn) == 9
