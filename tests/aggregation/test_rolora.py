from collections.abc import Iterable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.rolora import ROLORA
from fedfit.core.update import HEAD, LORA_A, LORA_B, AdapterSize, Factors, Job, Memory, ServerState, Update, update_of
from fedfit.experiment.build import Experiment
from tests.aggregation.rewiring import connect
from tests.aggregation.watching import record
from tests.builders import link_of, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

GROUPS = frozenset({LORA_A, LORA_B, HEAD})


def applied(state: Update, updates: Iterable[Update]) -> Update:
    """The adapter after a round."""
    return ROLORA.server.apply(ServerState(state), updates).adapter


def simulation(folder: Path, **sections: dict[str, object]) -> Experiment:
    federation = {"rule": "rolora", "rounds": 4, **sections.pop("federation", {})}
    return tiny_experiment(tiny_recipe(folder, federation=federation, **sections), None)


def product(factors: Factors) -> torch.Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def test_the_table_names_the_rule() -> None:
    assert rule_of("rolora") is ROLORA
    traits = ROLORA.traits
    assert (traits.needs, traits.mixed_ranks, traits.fixed_rank, traits.uniform) == ("pairs", False, False, False)
    assert (traits.derivable, traits.private, traits.linear) == (frozenset(), frozenset(), True)


def test_b_comes_first_and_then_they_take_turns() -> None:
    """METHODS and paper: B in even, A in odd rounds, from round 0. Ours begin with round 1, so round n is their n − 1."""
    for number in range(1, 9):
        factor = LORA_B if (number - 1) % 2 == 0 else LORA_A
        assert ROLORA.traits.trained(number, GROUPS) == ROLORA.traits.uplink_groups(number, GROUPS) == {factor, HEAD}
        assert ROLORA.traits.downlink_groups(number, GROUPS) == GROUPS


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from("ab"),
    st.lists(st.floats(1e-6, 2.0**53), min_size=1, max_size=6),
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=4, max_size=4),
)
def test_the_mean_of_equal_numbers_is_that_number(frozen: str, weights: list[float], values: list[float]) -> None:
    """The factor that no device trained keeps its bits through the sum in float64, subnormal and huge ones too."""
    fixed = torch.tensor(values, dtype=torch.float32)
    state = update_of({"m": Factors(fixed[None], fixed[:, None], 2.0)})
    rows = []
    for seed, weight in enumerate(weights):
        other = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        pair = Factors(fixed[None], other[:, None], 2.0) if frozen == "a" else Factors(other[None], fixed[:, None], 2.0)
        rows.append(update_of({"m": pair}, weight=weight))
    after = applied(state, iter(rows)).factors["m"]
    assert torch.equal(getattr(after, frozen).flatten(), fixed)


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_exact_where_fedavg_is_not(frozen: str) -> None:
    state = random_update(99)
    rows = []
    for seed, weight in enumerate((3.0, 5.0, 11.0)):
        update = random_update(seed, weight)
        factors = {n: replace(pair, **{frozen: getattr(state.factors[n], frozen)}) for n, pair in update.factors.items()}
        rows.append(update.with_factors(factors))
    after = applied(state, iter(rows))
    assert same_bits(after, FEDAVG.server.apply(ServerState(state), iter(rows)).adapter)
    for name, pair in after.factors.items():
        exact = sum(row.weight / 19 * product(row.factors[name]) for row in rows)
        torch.testing.assert_close(product(pair), exact, rtol=1e-6, atol=1e-6)
    free = FEDAVG.server.apply(ServerState(state), [random_update(seed) for seed in range(3)]).adapter
    exact = sum(product(random_update(seed).factors["layer.0.query"]) / 3 for seed in range(3))
    assert float((product(free.factors["layer.0.query"]) - exact).norm()) > 0.1


def test_each_round_moves_one_factor_and_the_head(tiny_bert: Path) -> None:
    """From the fresh adapter, whose B is zero: the first round must train B, or it would learn the head alone."""
    results = list(simulation(tiny_bert).run())
    assert not any(pair.b.any() for pair in results[0].state.adapter.factors.values())
    for before, after in pairwise(results):
        moving, still = ("b", "a") if after.record.round % 2 else ("a", "b")
        for name, pair in after.state.adapter.factors.items():
            old = before.state.adapter.factors[name]
            assert torch.equal(getattr(pair, still), getattr(old, still))
            assert not torch.equal(getattr(pair, moving), getattr(old, moving))
        for name, tensor in after.state.adapter.groups[HEAD].items():
            assert not torch.equal(tensor, before.state.adapter.groups[HEAD][name])


def test_a_first_round_that_trained_a_would_learn_the_head_alone(tiny_bert: Path) -> None:
    """Why the docstring puts B first: ∂A = s·Bᵀ·G·… is zero where B is, and SGD leaves A where it was."""
    made = simulation(tiny_bert, training={"optimizer": "sgd", "weight_decay": 0.0})
    parts = made.parts
    update = made.trainer.train(Job(made.initial), parts.train, parts.held[0], 1, 0, frozenset({LORA_A, HEAD}))
    assert all(torch.equal(pair.a, made.initial.factors[name].a) for name, pair in update.factors.items())
    assert not torch.equal(update.groups[HEAD]["classifier.weight"], made.initial.groups[HEAD]["classifier.weight"])


def test_both_factors_go_down_and_one_comes_up(tiny_bert: Path) -> None:
    """4 matrices of 32 → 32 at rank 2: a factor is 4·2·32 numbers of 4 bytes. The paper's downlink would be one factor."""
    made = simulation(tiny_bert)
    codec = record(made)
    for result in islice(made.run(), 1, 3):
        sent, codec.packets = [set(load(packet.payload)) for packet in codec.packets], []
        assert len(sent) == 6
        for number, names in enumerate(sent):
            found = {name.partition(".")[0] for name in names}
            assert found == (ROLORA.traits.trained(result.record.round, GROUPS) if number % 2 else GROUPS)
        for device in result.devices:
            factor = 4 * 2 * 32 * 4
            assert factor - 100 <= device.downlink_bytes - device.uplink_bytes <= factor + 600


def test_a_device_that_missed_a_round_has_what_it_needs(tiny_bert: Path) -> None:
    """One of three devices a round: it trains from the server's own A and B, the untrained factor its bits."""
    made = simulation(tiny_bert, federation={"devices_per_round": 1})
    seen: list[Update] = []

    def receive(received: Update, memory: Memory | None) -> Job:
        seen.append(received)
        return Job(received)

    made.rule = replace(made.rule, device=replace(made.rule.device, receive=receive))
    connect(made, link_of(made))
    results = list(made.run())
    assert len({result.devices[0].device for result in results[1:]}) > 1
    assert len(seen) == len(results) - 1
    assert all(same_bits(got, result.state.adapter) for got, result in zip(seen, results, strict=False))


def test_the_rank_may_change_between_rounds() -> None:
    state, size = random_update(99), AdapterSize(3, 1.0)
    assert same_bits(ROLORA.server.resize(ServerState(state), size, 5).adapter, resize_update(state, size, seed=5))
