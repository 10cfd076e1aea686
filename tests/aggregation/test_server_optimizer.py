import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.ffa_lora import FFA_LORA
from fedfit.aggregation.rules.rolora import ROLORA
from fedfit.aggregation.server_optimizer import KINDS, ServerOptimizer, with_server_optimizer
from fedfit.aggregation.table import RULES, make_rule
from fedfit.core.update import (
    HEAD,
    LORA_A,
    LORA_B,
    PAIRS,
    AdapterSize,
    Factors,
    Origin,
    ServerState,
    Update,
    named_tensors,
    update_of,
    with_tensors,
)
from fedfit.records import RoundRecord, RoundResult
from fedfit.settings import FederationSettings, Recipe
from fedfit.tracking.checkpoint import Checkpoints
from tests.aggregation.watching import most_alive
from tests.builders import random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

STATE = random_update(99)
GROUPS = STATE.present
RATE, BETA1, BETA2, TAU = 0.3, 0.8, 0.95, 0.02
MOMENTS = {"sgd": "", "momentum": "m", "nesterov": "m", "adagrad": "mv", "adam": "mv", "yogi": "mv"}


def wrapped(
    kind: str, rate: float = 1.0, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, rule: Rule = FEDAVG
) -> Rule:
    return with_server_optimizer(
        rule,
        FederationSettings(
            server_optimizer=kind, server_learning_rate=rate, server_momentum=beta1, server_beta2=beta2, server_tau=tau
        ),
    )


def make(kind: str, rule: Rule = FEDAVG) -> Rule:
    return wrapped(kind, RATE, BETA1, BETA2, TAU, rule)


def adapter(rule: Rule, state: ServerState) -> Update:
    """The global model's adapter."""
    return rule.server.model(state).update


class ScalarTwin:
    """Algorithm 2 for one coordinate in plain Python; x is rounded to float32 after each round, as adapters are."""

    def __init__(self, kind: str, x: float) -> None:
        self.kind, self.x, self.m, self.v = kind, x, 0.0, TAU * TAU

    def step(self, brought: float) -> None:
        delta = brought - self.x
        if self.kind == "sgd":
            move = delta
        elif self.kind == "momentum":
            self.m = move = BETA1 * self.m + delta
        elif self.kind == "nesterov":
            self.m = BETA1 * self.m + delta
            move = BETA1 * self.m + delta
        else:
            self.m = BETA1 * self.m + (1 - BETA1) * delta
            if self.kind == "adagrad":
                self.v += delta**2
            elif self.kind == "adam":
                self.v = BETA2 * self.v + (1 - BETA2) * delta**2
            else:
                sign = (self.v > delta**2) - (self.v < delta**2)
                self.v -= (1 - BETA2) * delta**2 * sign
            move = self.m / (math.sqrt(self.v) + TAU)
        self.x = float(np.float32(self.x + RATE * move))


def numbers(update: Update) -> list[float]:
    return [value for tensor in named_tensors(update).values() for value in tensor.flatten().tolist()]


def trained(state: Update, seed: int, weight: float = 1.0, size: float = 0.1) -> Update:
    """``state`` moved by noise of ``size`` in every tensor."""
    noise = named_tensors(random_update(seed, rank=len(state.factors["layer.0.query"].a)))
    moved = {name: tensor + size * noise[name] for name, tensor in named_tensors(state).items()}
    return replace(with_tensors(state, moved), weight=weight)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_scalar_twin_on_every_coordinate_over_rounds(kind: str) -> None:
    """One device a round, so that the mean is exact and adapters agree to the bit; Δ² lies on both sides of v."""
    optimizer, state = make(kind), make(kind).server.init(STATE)
    twins = [ScalarTwin(kind, x) for x in numbers(STATE)]
    assert len(twins) == 2 * (2 * 6 + 5 * 2) + 3 * 6 + 3  # the head included
    for round_number in range(6):
        update = trained(adapter(optimizer, state), round_number, size=0.01 * 4**round_number % 0.7)
        state = optimizer.server.apply(state, [update])
        for twin, brought in zip(twins, numbers(update), strict=True):
            twin.step(brought)
        assert numbers(adapter(optimizer, state)) == [twin.x for twin in twins]
    names = [f"{moment} {name}" for moment in MOMENTS[kind] for name in named_tensors(STATE)]
    assert sorted(state.tensors) == sorted(names)
    for moment in MOMENTS[kind]:
        kept = [x for name in named_tensors(STATE) for x in state.tensors[f"{moment} {name}"].flatten().tolist()]
        np.testing.assert_allclose(kept, [getattr(twin, moment) for twin in twins], rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_several_devices_move_it_along_their_weighted_mean(kind: str) -> None:
    optimizer, state = make(kind), make(kind).server.init(STATE)
    twins = [ScalarTwin(kind, x) for x in numbers(STATE)]
    weights = (3.0, 5.0, 11.0)
    for round_number in range(4):
        updates = [trained(adapter(optimizer, state), 10 * round_number + n, weight) for n, weight in enumerate(weights)]
        state = optimizer.server.apply(state, iter(updates))
        for twin, values in zip(twins, zip(*map(numbers, updates), strict=True), strict=True):
            twin.step(math.fsum(w * x for w, x in zip(weights, values, strict=True)) / math.fsum(weights))
    np.testing.assert_allclose(numbers(adapter(optimizer, state)), [twin.x for twin in twins], rtol=1e-5, atol=1e-5)


def test_by_hand() -> None:
    """x = 1, devices bring 3 and then 4, η = ½, β1 = ½, β2 = ¾, τ = 2.

    Round 1, Δ = 2, Δ² = τ² = 4: momentum m = 2, x = 2. The others m = 1; v = 8, 4, 4 (adagrad, adam, yogi with sign 0).
    """
    pair = Factors(torch.ones(1, 1), torch.ones(1, 1), 1.0)
    start = update_of({"m": pair}, {HEAD: {"bias": torch.ones(1)}})
    threes = with_tensors(start, {name: tensor * 3 for name, tensor in named_tensors(start).items()})
    expected = {"sgd": 2.0, "momentum": 2.0, "adagrad": 1 + 0.5 / (8**0.5 + 2), "adam": 1 + 0.5 / 4, "yogi": 1 + 0.5 / 4}
    for kind, x in expected.items():
        optimizer = wrapped(kind, 0.5, 0.5, 0.75, 2.0)
        state = optimizer.server.apply(optimizer.server.init(start), [threes])
        assert numbers(state.adapter) == [float(np.float32(x))] * 3
        if kind == "momentum":  # Δ = 4 - 2: m = ½·2 + 2 = 3, x = 2 + ½·3
            fours = with_tensors(start, {name: tensor * 4 for name, tensor in named_tensors(start).items()})
            assert numbers(optimizer.server.apply(state, [fours]).adapter) == [3.5] * 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=4), st.integers(0, 100), st.sampled_from([1e-30, 1.0, 1e30]))
def test_sgd_of_learning_rate_1_is_the_inner_rule_to_the_bit(weights: list[int], seed: int, size: float) -> None:
    """Also where ``x + (x' - x)`` is not x': 1 + (1e-30 - 1) = 0."""
    optimizer, state, plain = wrapped("sgd"), ServerState(STATE), ServerState(STATE)
    for _ in range(2):
        updates = [random_update(seed + n, float(weight)) for n, weight in enumerate(weights)]
        scaled = [
            replace(with_tensors(u, {n: t * size for n, t in named_tensors(u).items()}), weight=u.weight) for u in updates
        ]
        state, plain = optimizer.server.apply(state, scaled), FEDAVG.server.apply(plain, scaled)
        assert same_bits(state.adapter, plain.adapter)
        assert state.tensors == {}


@pytest.mark.parametrize("kind", KINDS)
def test_quadratics_converge(kind: str) -> None:
    """Devices take one step down ``½ c ‖x - x*‖²``, each with its own c: the server ends at the x* that they share.

    Adaptive steps have about the size η until changes fall to τ, so x starts within 1 of x*, and η = 0.05 over 400 rounds
    could go 20 times as far.
    """
    goal = random_update(1)
    optimizer = wrapped(kind, {"sgd": 0.5, "momentum": 0.2, "adagrad": 0.3}.get(kind, 0.05))
    state = optimizer.server.init(trained(goal, 2, size=0.3))
    target = named_tensors(goal)
    for _ in range(400):
        now = named_tensors(adapter(optimizer, state))
        updates = [
            replace(with_tensors(goal, {n: x - c * (x - target[n]) for n, x in now.items()}), weight=w)
            for c, w in ((0.05, 1.0), (0.2, 3.0))
        ]
        state = optimizer.server.apply(state, updates)
    np.testing.assert_allclose(numbers(adapter(optimizer, state)), numbers(goal), rtol=0, atol=2e-3)


def record(number: int) -> RoundRecord:
    return RoundRecord(number, {}, None, uplink_bytes=0, downlink_bytes=0, seconds=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_is_as_not_resumed_to_the_bit(kind: str, tmp_path: Path) -> None:
    optimizer, checkpoints = make(kind), Checkpoints(tmp_path)
    state = again = optimizer.server.init(STATE)
    for number in range(5):
        updates = [trained(STATE, 10 * number + n, 1.0 + n) for n in range(2)]
        state, again = optimizer.server.apply(state, updates), optimizer.server.apply(again, updates)
        checkpoints.save(RoundResult(record(number), (), again))
        found = checkpoints.latest()
        assert found is not None
        again = found.state
        assert same_bits(again.adapter, state.adapter)
        assert again.tensors.keys() == state.tensors.keys()
        assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in state.tensors.items())
        assert all(tensor.dtype == torch.float64 for tensor in again.tensors.values())


@pytest.mark.parametrize("kind", KINDS)
def test_factors_that_lie_across_memory_can_be_checkpointed(kind: str, tmp_path: Path) -> None:
    across = STATE.with_factors({n: replace(p, b=p.b.t().contiguous().t()) for n, p in STATE.factors.items()})
    optimizer = make(kind)
    state = optimizer.server.apply(optimizer.server.init(across), [trained(across, 1)])
    Checkpoints(tmp_path).save(RoundResult(record(1), (), state))


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_update_the_state_stays_with_its_moments(kind: str) -> None:
    optimizer = make(kind)
    state = optimizer.server.apply(optimizer.server.init(STATE), [trained(STATE, 1)])
    assert optimizer.server.apply(state, iter([])) is state


@pytest.mark.parametrize("kind", KINDS)
def test_apply_changes_neither_state_nor_updates(kind: str) -> None:
    optimizer = make(kind)
    state = optimizer.server.apply(optimizer.server.init(STATE), [trained(STATE, 1)])
    before, moments = with_copies(state.adapter), {name: tensor.clone() for name, tensor in state.tensors.items()}
    updates = [trained(STATE, n) for n in range(3)]
    optimizer.server.apply(state, updates)
    assert same_bits(state.adapter, before)
    assert all(torch.equal(tensor, moments[name]) for name, tensor in state.tensors.items())
    assert all(same_bits(update, trained(STATE, n)) for n, update in enumerate(updates))


def with_copies(update: Update) -> Update:
    return with_tensors(update, {name: tensor.clone() for name, tensor in named_tensors(update).items()})


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.permutations(range(5)), st.lists(st.integers(1, 40_000), min_size=5, max_size=5))
def test_the_order_of_the_devices_changes_no_bit(kind: str, order: list[int], weights: list[int]) -> None:
    optimizer = make(kind)
    updates = [trained(STATE, n, float(weight)) for n, weight in enumerate(weights)]
    first = optimizer.server.apply(optimizer.server.init(STATE), updates)
    second = optimizer.server.apply(optimizer.server.init(STATE), [updates[n] for n in order])
    assert same_bits(first.adapter, second.adapter)


@pytest.mark.parametrize("kind", ["adam"])  # what is kept does not depend on it, and the collector is slow
def test_one_update_is_alive_at_a_time(kind: str) -> None:
    optimizer = make(kind)
    assert most_alive(lambda updates: optimizer.server.apply(optimizer.server.init(STATE), updates)) == 0


def only(groups: frozenset[str], state: Update, seed: int) -> Update:
    """The update of a device that trained ``groups``: the rest is as it was sent."""
    moved = trained(state, seed).only(groups | {HEAD})
    return replace(state.with_groups(moved.groups), weight=1.0 + seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_that_is_not_trained_stays_and_so_do_its_moments(kind: str) -> None:
    """RoLoRA: B in odd rounds, A in even ones; each factor goes the way that it would go if its own rounds were all."""
    optimizer, twin = make(kind, ROLORA), make(kind)
    state, alone = optimizer.server.init(STATE), {group: twin.server.init(STATE) for group in PAIRS}
    for number in range(1, 7):
        group, other = (LORA_B, LORA_A) if number % 2 else (LORA_A, LORA_B)
        before = state
        updates = [only(frozenset({group}), state.adapter, 10 * number + n) for n in range(3)]
        state = optimizer.server.apply(before, updates)
        for name, tensor in named_tensors(before.adapter).items():
            assert torch.equal(named_tensors(state.adapter)[name], tensor) == name.startswith(f"{other}.")
        for name, tensor in before.tensors.items():
            assert torch.equal(state.tensors[name], tensor) == name[2:].startswith(f"{other}.")
        own = alone[group]
        alone[group] = twin.server.apply(own, [only(frozenset({group}), own.adapter, 10 * number + n) for n in range(3)])
    for group in PAIRS:
        mine, theirs = state.adapter.groups[group], alone[group].adapter.groups[group]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_of_ffa_lora_never_moves_and_has_no_moments(kind: str) -> None:
    optimizer = make(kind, FFA_LORA)
    state = optimizer.server.init(STATE)
    for number in range(3):
        state = optimizer.server.apply(state, [only(frozenset({LORA_B}), state.adapter, 10 * number + n) for n in range(2)])
    assert all(torch.equal(pair.a, STATE.factors[name].a) for name, pair in state.adapter.factors.items())
    assert not any(torch.equal(pair.b, STATE.factors[name].b) for name, pair in state.adapter.factors.items())
    assert not any(LORA_A in name for name in state.tensors)


def test_changes_that_cancel_are_training_all_the_same() -> None:
    """Two devices with opposite changes: Δ = 0 in that round, and momentum goes on."""
    zero = with_tensors(STATE, {name: torch.zeros_like(tensor) for name, tensor in named_tensors(STATE).items()})
    step = trained(zero, 1)
    back = with_tensors(step, {name: -tensor for name, tensor in named_tensors(step).items()})
    optimizer = wrapped("momentum", 1.0, 0.5)
    state = ServerState(zero, {f"m {name}": torch.ones_like(tensor).double() for name, tensor in named_tensors(zero).items()})
    assert numbers(optimizer.server.apply(state, [step, back]).adapter) == [0.5] * len(numbers(zero))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [AdapterSize(1, 4.0), AdapterSize(3, 2.0), AdapterSize(2, 1.0)])
def test_another_rank_restarts_the_moments_of_the_factors_and_says_so(
    kind: str, size: AdapterSize, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = make(kind)
    state = optimizer.server.apply(optimizer.server.init(STATE), [trained(STATE, 1)])
    with caplog.at_level("INFO"):
        resized = optimizer.server.resize(state, size, 5)
    assert same_bits(resized.adapter, resize_update(state.adapter, size, seed=5))
    assert resized.tensors.keys() == {name for name in state.tensors if " head." in name}
    assert all(torch.equal(tensor, state.tensors[name]) for name, tensor in resized.tensors.items())
    assert ("start anew" in caplog.text) == (kind != "sgd")
    # From there it is as a fresh optimiser that starts at the resized factors.
    moved = resize_update(trained(STATE, 2), size, seed=6)
    after, fresh = (
        optimizer.server.apply(resized, [moved]),
        optimizer.server.apply(optimizer.server.init(resized.adapter), [moved]),
    )
    assert same_bits(after.adapter.only(PAIRS), fresh.adapter.only(PAIRS))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_size_keeps_every_moment(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = make(kind)
    state = optimizer.server.apply(optimizer.server.init(STATE), [trained(STATE, 1)])
    with caplog.at_level("INFO"):
        resized = optimizer.server.resize(state, AdapterSize(2, 2.0), 5)
    assert resized.adapter is state.adapter
    assert resized.tensors == state.tensors
    assert caplog.text == ""


@pytest.mark.parametrize("rule", [FEDAVG, FFA_LORA, ROLORA])
def test_the_contract_is_that_of_the_inner_rule(rule: Rule) -> None:
    """But for its step, which is no weighted sum any longer."""
    optimizer = make("adam", rule)
    assert optimizer.traits == replace(rule.traits, linear=False)
    assert rule.traits.linear
    assert optimizer.device is rule.device
    state = optimizer.server.init(STATE)
    assert state == ServerState(STATE)
    assert adapter(optimizer, state) is STATE
    assert optimizer.server.dispatch(state, 3, AdapterSize(2, 2.0), 1) is STATE
    assert optimizer.server.reply_forms(STATE) == rule.server.reply_forms(STATE)
    assert optimizer.server.max_rank(STATE) == rule.server.max_rank(STATE)


def test_the_words_of_the_recipe_are_those_of_the_table() -> None:
    choices = FederationSettings.__dataclass_fields__["server_optimizer"].metadata["choices"]
    assert set(choices) == {"none", *KINDS}


def test_nothing_asked_for_is_the_rule_itself() -> None:
    for name in RULES:
        rule = rule_of(name)
        assert with_server_optimizer(rule, FederationSettings(server_learning_rate=0.5)) is rule


@pytest.mark.parametrize("name", ["fedavg", "median"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_sets_rule_and_every_number(kind: str, name: str) -> None:
    """Two rounds, so that β1 counts; numbers that all differ, so that none can stand in another's place."""
    settings = FederationSettings(
        rule=name,
        server_optimizer=kind,
        server_learning_rate=0.3,
        server_momentum=0.7,
        server_beta2=0.6,
        server_tau=0.2,
    )
    rule, expected = make_rule(Recipe(federation=settings), 3), ServerOptimizer(rule_of(name).server, kind, 0.3, 0.7, 0.6, 0.2)
    mine, other = rule.server.init(STATE), ServerState(STATE)
    updates = [random_update(n, float(1 + n)) for n in range(5)]
    for _ in range(2):
        mine, other = rule.server.apply(mine, updates), expected.apply(other, updates)
    assert same_bits(mine.adapter, other.adapter)
    assert not same_bits(mine.adapter, rule_of(name).server.apply(ServerState(STATE), updates).adapter)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_the_table_is_kept_to_the_bit_or_refused(name: str) -> None:
    """Also rules whose devices hold a part of the rank: their replies have another shape than the state."""
    rule = rule_of(name, byzantine=0) if name == "krum" else rule_of(name)
    if not rule.traits.supports_server_optimizer:
        with pytest.raises(ValueError, match="keeps no single adapter"):
            wrapped("sgd", rule=rule)
        return
    optimizer, moving = wrapped("sgd", rule=rule), make("momentum", rule)
    state, plain, moved = optimizer.server.init(STATE), rule.server.init(STATE), moving.server.init(STATE)
    for number in range(1, 4):
        updates = []
        for device, rank in ((0, 2), (1, 1 if rule.traits.mixed_ranks else 2), (2, 2)):
            sent = rule.server.dispatch(plain, device, AdapterSize(rank, 2.0), device)
            job = rule.device.receive(sent, None)
            groups = rule.traits.trained(number, GROUPS)
            reply, _ = rule.device.send(job, only(groups, job.update, number), None)
            updates.append(replace(reply, origin=Origin(device, device)))
        state, plain = optimizer.server.apply(state, updates), rule.server.apply(plain, updates)
        assert same_bits(adapter(optimizer, state), adapter(rule, plain))
        moved = moving.server.apply(moved, updates)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in named_tensors(moved.adapter).values())


def test_rules_without_a_lasting_adapter_and_unknown_kinds_are_refused() -> None:
    for name in ("flexlora", "flora", "fedex_lora", "slora", "scaffold", "local_only"):
        with pytest.raises(ValueError, match="the rule keeps no single adapter"):
            wrapped("adam", rule=rule_of(name))
    with pytest.raises(ValueError, match="adamw is none of sgd, momentum"):
        wrapped("adamw")


def test_in_a_real_federation_it_moves_only_what_the_round_trains(tiny_bert: Path) -> None:
    federation = {"rule": "rolora", "rounds": 4, "server_optimizer": "momentum", "server_momentum": 0.9}
    made = tiny_experiment(tiny_recipe(tiny_bert, federation=federation), None)
    states = [round_result.state.adapter for round_result in made.run()]
    for number, (before, after) in enumerate(pairwise(states), start=1):
        for name, pair in before.factors.items():
            assert torch.equal(pair.a, after.factors[name].a) == bool(number % 2)
            assert torch.equal(pair.b, after.factors[name].b) != bool(number % 2)
        assert not torch.equal(before.groups[HEAD]["classifier.weight"], after.groups[HEAD]["classifier.weight"])


def test_in_a_real_federation_sgd_of_1_is_the_inner_rule(tiny_bert: Path) -> None:
    plain, moving = (
        tiny_experiment(tiny_recipe(tiny_bert, federation={"rounds": 2, "server_optimizer": kind}), None)
        for kind in ("none", "sgd")
    )
    assert moving.rule.server.apply is not plain.rule.server.apply
    for first, second in zip(plain.run(), moving.run(), strict=True):
        assert same_bits(first.state.adapter, second.state.adapter)
