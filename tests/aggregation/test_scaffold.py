"""SCAFFOLD against Algorithm 1 and closed forms on quadratics; what a rule must hold; what a recipe may ask."""

import gc
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedfit.aggregation.contract import Context, Rule
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.server_optimizer import with_server_optimizer
from fedfit.aggregation.table import make_rule
from fedfit.core.update import (
    HEAD,
    LORA_A,
    LORA_B,
    AdapterSize,
    Fact,
    Memory,
    Origin,
    ServerState,
    Update,
    named_tensors,
    with_tensors,
)
from fedfit.errors import UpdateRefused
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline
from fedfit.settings import FederationSettings, Recipe
from tests.aggregation.quadratics import (
    SIZE,
    START,
    AsPrinted,
    Quadratics,
    Tensors,
    close,
    mean,
    one_round,
    variates,
)
from tests.builders import rule_of, same_bits

VARIATES = "variates"
"""The group that c travels down in, and Δ_i up."""


def scaffold(devices: int) -> Rule:
    """The rule where ``devices`` hold data."""
    return rule_of("scaffold", Context(holders=devices))


# Rounds: who takes part, and whose reply is lost.
ROUNDS: dict[str, list[tuple[list[int], list[int]]]] = {
    "all": [([0, 1, 2, 3], [])] * 5,
    "some": [([0, 1], []), ([2], []), ([1, 3], []), ([0, 1, 2], []), ([0, 3], [])],
    "one, lost at first": [([0, 1], [0]), ([0, 2], []), ([0, 1, 3], []), ([0], [])],
    "one, lost later": [([0, 1, 2, 3], []), ([0, 1], [1]), ([1, 2], []), ([1, 3], [])],
    "one, lost twice and then away": [([0, 1], []), ([0, 1], [1]), ([1, 2], [1]), ([0, 3], []), ([1, 2], []), ([1], [])],
}


@pytest.mark.parametrize("case", ROUNDS)
@pytest.mark.parametrize("clipped", [math.inf, 0.3])
def test_it_is_algorithm_1(case: str, clipped: float) -> None:
    """Float32 beside float64. After each round c is the mean of the c_i, lost replies or not: Δ_i is the same float32 number
    on both sides and the sums are in float64, so that is far nearer than float32."""
    made = Quadratics(4, clipped=clipped)
    twin, state = AsPrinted(made), made.rule.server.init(START)
    for devices, lost in ROUNDS[case]:
        state = made.round(state, devices, lost)
        twin.round(device for device in devices if device not in lost)
        close(named_tensors(state.adapter), twin.x, 2e-6)
        close(variates(state), twin.c, 1e-5)
        for mine, other in zip(made.own(state), twin.own, strict=True):
            close(mine, other, 1e-5)
        close(variates(state), mean(made.own(state)), 1e-13)
    assert max(float(c.abs().max()) for c in variates(state).values()) > 0.1, "a test of nothing"


def test_it_goes_to_the_optimum_where_fedavg_does_not() -> None:
    """FedAvg stands still where Σ (1 - Π(1 - η h_i))(m_i - x) = 0, the sum of the ways; SCAFFOLD where Σ h_i (m_i - x) = 0."""
    made = Quadratics(3)
    state, plain = made.rule.server.init(START), START
    for _ in range(150):
        state = made.round(state, range(3))
        ends = []
        for device in range(3):
            y = dict(named_tensors(plain))
            for rate in made.rates:
                y = {name: y[name] - rate * slope for name, slope in made.gradient(device, y).items()}
            ends.append(with_tensors(START, y))
        plain = FEDAVG.server.apply(ServerState(plain), iter(ends)).adapter
    pulls = []
    for curve in made.curves:
        left = {
            name: math.prod((1 - rate * h.double() for rate in made.rates), start=h.double() * 0 + 1)
            for name, h in curve.items()
        }
        pulls.append({name: 1 - tensor for name, tensor in left.items()})
    pulled = mean([{n: p * m[n].double() for n, p in pull.items()} for pull, m in zip(pulls, made.minima, strict=True)])
    close(named_tensors(plain), {name: tensor / mean(pulls)[name] for name, tensor in pulled.items()}, 1e-5)
    close(named_tensors(state.adapter), made.optimum(), 1e-5)
    gap = max(float((tensor - made.optimum()[n]).abs().max()) for n, tensor in named_tensors(plain).items())
    assert gap > 0.05, "FedAvg's drift is far above the tolerance"


def at_optimum(made: Quadratics) -> ServerState:
    """x* with c_i = ∇f_i(x*), so c = 0; every device has replied once, and that counted."""
    x = {name: tensor.float() for name, tensor in made.optimum().items()}
    for device in range(made.count):
        slopes = made.gradient(device, made.optimum())
        kept = {f"c {name}": slope * 0 for name, slope in slopes.items()} | {f"change {n}": s for n, s in slopes.items()}
        made.memories[device] = Memory(kept, {"counted": 0})
    numbers = {f"counted {device}": 1 for device in range(made.count)}
    return replace(made.rule.server.init(with_tensors(START, x)), numbers=numbers)


@pytest.mark.parametrize("devices", [(0, 1, 2), (1,)])
def test_at_the_optimum_with_exact_variates_no_step_moves(devices: tuple[int, ...]) -> None:
    """g_i(x*) - c_i + c = 0, of each device by itself, so also of one alone: that is what a drift would break first."""
    made = Quadratics(3)
    state = at_optimum(made)
    close(mean(made.own(state)), variates(state), 1e-6)
    after = made.round(state, devices)
    close(named_tensors(after.adapter), named_tensors(state.adapter), 1e-6)
    close(variates(after), variates(state), 1e-5)
    assert max(float(c.abs().max()) for own in made.own(state) for c in own.values()) > 1, "each by itself would move"


def test_devices_that_are_alike_need_no_correction() -> None:
    """From the second round c_i = c for all, and the correction is nothing but rounding."""
    made = Quadratics(3, apart=0.0)
    state = made.round(made.rule.server.init(START), range(3))
    job = made.rule.device.receive(made.rule.server.dispatch(state, 0, SIZE, 0), made.memories[0])
    assert max(float(tensor.abs().max()) for tensor in job.correction.values()) < 1e-6
    assert max(float(c.abs().max()) for c in variates(state).values()) > 0.1


def test_a_rate_of_zero_learns_nothing() -> None:
    """A warm-up's first step: 0/0 must not become a control variate."""
    rule = scaffold(2)
    state = rule.server.init(START)
    job = rule.device.receive(rule.server.dispatch(state, 0, SIZE, 0), None)
    update, memory = rule.device.send(job, replace(START, facts={"learning_rate_sum": 0.0}), None)
    assert update.groups[VARIATES].keys() == named_tensors(START).keys()
    assert all(bool((tensor == 0).all()) for tensor in update.groups[VARIATES].values())
    after = rule.server.apply(state, iter([replace(update, origin=Origin(0, 0))]))
    assert all(bool((tensor == 0).all()) for tensor in after.tensors.values())
    assert after.numbers == {"counted 0": 1}
    rule.device.receive(rule.server.dispatch(after, 0, SIZE, 0), memory)


# What a rule must hold


def test_what_it_says_of_itself() -> None:
    rule, all_groups = scaffold(3), frozenset({LORA_A, LORA_B, HEAD})
    traits = rule.traits
    assert (traits.mixed_ranks, traits.fixed_rank, traits.uniform) == (False, True, True)
    assert not traits.supports_server_optimizer
    assert (traits.derivable, traits.private, traits.trained(1, all_groups)) == (frozenset(), frozenset(), all_groups)
    with pytest.raises(ValueError, match="control variates of 0 devices have no mean"):
        scaffold(0)
    with pytest.raises(ValueError, match="the rule keeps no single adapter"):
        with_server_optimizer(rule, FederationSettings(server_optimizer="sgd"))


def test_without_an_update_it_is_the_very_same_state() -> None:
    state, _ = one_round(Quadratics(3))
    assert scaffold(3).server.apply(state, iter([])) is state


def test_the_state_before_is_left_as_it_was() -> None:
    state, updates = one_round(Quadratics(3))
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    scaffold(3).server.apply(state, iter(updates))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors.items())


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_the_order_of_the_devices_is_float_noise(order: tuple[int, ...]) -> None:
    state, updates = one_round(Quadratics(3))
    straight = scaffold(3).server.apply(state, iter(updates))
    other = scaffold(3).server.apply(state, iter([updates[device] for device in order]))
    close(named_tensors(straight.adapter), named_tensors(other.adapter), 1e-6)
    close(straight.tensors, other.tensors, 1e-14)
    assert straight.numbers == other.numbers == {"counted 0": 2, "counted 1": 2, "counted 2": 2}


def test_one_device_alone_gives_its_own_update() -> None:
    state, updates = one_round(Quadratics(3))
    after = scaffold(3).server.apply(state, iter(updates[:1]))
    assert same_bits(after.adapter, updates[0].without({VARIATES}))
    expected = {name: c + updates[0].groups[VARIATES][name].double() / 3 for name, c in state.tensors.items()}
    close(after.tensors, expected, 1e-14)


def test_the_adapter_is_fedavgs_to_the_bit() -> None:
    state, updates = one_round(Quadratics(3), (3.0, 5.0, 2.0))
    plain = FEDAVG.server.apply(ServerState(state.adapter), iter(updates))
    assert same_bits(scaffold(3).server.apply(state, iter(updates)).adapter, plain.adapter)
    assert same_bits(scaffold(3).server.model(state).update, state.adapter)


def test_one_update_is_in_memory_at_a_time() -> None:
    made = Quadratics(3)
    state, _ = one_round(made)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for device in range(3):
            gc.collect()
            most = max(most, len(alive))
            update = made.reply(state, device)
            made.memories[device] = None  # which holds the change as well
            alive.update(named_tensors(update).values())
            yield update
            del update

    made.rule.server.apply(state, updates())
    assert (most, len(alive)) == (0, 0)


def test_an_update_of_nobody_is_an_error() -> None:
    state, updates = one_round(Quadratics(3))
    with pytest.raises(ValueError, match="an update without an origin"):
        scaffold(3).server.apply(state, iter([replace(updates[0], origin=None)]))


def test_the_rank_may_change_before_anything_counted() -> None:
    """A plan of one rank below the adapter's resizes in its first round; later there is nothing to resize."""
    rule, fresh = scaffold(3), scaffold(3).server.init(START)
    small = rule.server.resize(fresh, AdapterSize(1, 4.0), 0)
    assert {name: tuple(tensor.shape) for name, tensor in variates(small).items()} == {
        name: tuple(tensor.shape) for name, tensor in named_tensors(small.adapter).items()
    }
    assert len(small.adapter.factors["layer.0.query"].a) == 1
    assert rule.server.resize(fresh, SIZE, 0) is fresh
    state, _ = one_round(Quadratics(3))
    assert rule.server.resize(state, SIZE, 0) is state
    with pytest.raises(ValueError, match="the rank cannot change: control variates have no meaning"):
        rule.server.resize(state, AdapterSize(1, 4.0), 0)


# What does not fit is refused on the device


@pytest.mark.parametrize(
    "spoil",
    [
        lambda variates: {},
        lambda variates: dict(list(variates.items())[1:]),
        lambda variates: {**variates, "stray": torch.zeros(1)},
        lambda variates: {name: tensor[None] for name, tensor in variates.items()},
    ],
)
def test_a_device_holds_c_to_the_adapter(spoil: Callable[[Tensors], Tensors]) -> None:
    rule = scaffold(3)
    sent = rule.server.dispatch(rule.server.init(START), 0, SIZE, 0)
    with pytest.raises(UpdateRefused, match=r"control variates: got .* wanted"):
        rule.device.receive(sent.with_groups({VARIATES: spoil(sent.groups[VARIATES])}), None)
    with pytest.raises(UpdateRefused, match=r"control variates: got {}, wanted"):
        rule.device.receive(sent.without({VARIATES}), None)


@pytest.mark.parametrize(
    ("told", "remembered", "message"),
    [
        (1, None, "1 replies of this device have counted, and it remembers none"),
        (3, 1, "3 replies of this device have counted; when it replied last, 1 had"),
        (1, 2, "1 replies of this device have counted; when it replied last, 2 had"),
        (None, None, "the fact counted is None, not a whole number"),
        (None, 1, "the fact counted is None, not a whole number"),
        (1.0, 1, "the fact counted is 1.0, not a whole number"),
        (True, 1, "the fact counted is True, not a whole number"),
    ],
)
def test_a_device_that_remembers_other_rounds_refuses(told: Fact | None, remembered: int | None, message: str) -> None:
    """A memory that was lost, or of another run: its c_i would not be the one in the mean."""
    rule = scaffold(3)
    sent = rule.server.dispatch(rule.server.init(START), 0, SIZE, 0)
    kept = {
        f"{kind} {name}": torch.ones(tensor.shape) for kind in ("c", "change") for name, tensor in named_tensors(START).items()
    }
    memory = None if remembered is None else Memory(kept, {"counted": remembered})
    with pytest.raises(UpdateRefused, match=message):
        rule.device.receive(replace(sent, facts={} if told is None else {"counted": told}), memory)


# Recipes


def recipe_of(**federation: object) -> Recipe:
    return Recipe(federation=FederationSettings(rule="scaffold", **federation))  # type: ignore[arg-type]


def test_a_recipe_asks_for_it() -> None:
    """N is the number of devices that hold data."""
    rule = make_rule(recipe_of(), 4)
    assert rule.traits.uniform
    state, updates = one_round(Quadratics(3))
    after, name = rule.server.apply(state, iter(updates[:1])), "head.classifier.bias"
    torch.testing.assert_close(after.tensors[name] - state.tensors[name], updates[0].groups[VARIATES][name].double() / 4)


def test_a_server_optimiser_cannot_be_built_round_it() -> None:
    with pytest.raises(ValueError, match="the rule keeps no single adapter"):
        make_rule(recipe_of(server_optimizer="adam"), 3)


def faults(*overrides: str) -> dict[str, tuple[object, str]]:
    words = ["federation.rule=scaffold", "training.optimizer=sgd", *overrides]
    found = validate_offline(parse_recipe("", words))
    assert len({fault.key for fault in found}) == len(found), "a key is reported twice"
    return {fault.key: (fault.value, fault.remedy) for fault in found}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.weight_decay=0.1", "training.proximal=1.0", "training.max_grad_norm=0.0", "training.schedule=linear"),
        ("federation.weighting=uniform", "training.precision=bf16"),
        ("plan.policy=fixed",),
        # Without it nothing of this is its business.
        ("federation.rule=fedavg", "training.optimizer=adamw", "training.precision=fp16", "federation.weighting=samples"),
    ],
)
def test_what_fits_together(overrides: tuple[str, ...]) -> None:
    assert faults(*overrides) == {}


SUMMED = "federation.rule = 'scaffold' takes the sum of the gradients from how far a device moved"


@pytest.mark.parametrize(
    ("overrides", "key", "value", "remedy"),
    [
        (
            ["federation.weighting=samples"],
            "federation.weighting",
            "samples",
            "scaffold lets devices weigh alike, as its control variates do; choose rule or uniform",
        ),
        (["plan.policy=joint"], "plan.policy", "joint", "scaffold needs one rank from first to last; choose fixed"),
        (["training.optimizer=adamw"], "training.optimizer", "adamw", f"{SUMMED}; set it to sgd"),
        (["training.momentum=0.9"], "training.momentum", 0.9, f"{SUMMED}; set it to 0"),
        (
            ["training.precision=fp16"],
            "training.precision",
            "fp16",
            f"{SUMMED}, and fp16 leaves out steps that overflow; choose bf16 or fp32",
        ),
    ],
)
def test_what_does_not_is_reported(overrides: list[str], key: str, value: object, remedy: str) -> None:
    assert faults(*overrides) == {key: (value, remedy)}


def test_a_server_optimiser_is_reported() -> None:
    value, remedy = faults("federation.server_optimizer=adam")["federation.server_optimizer"]
    assert value == "adam"
    assert remedy.startswith("scaffold does not keep one adapter whose coordinates mean the same in the next round")
