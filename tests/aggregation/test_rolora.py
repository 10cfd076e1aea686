from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rolora import RoLora
from fedfit.aggregation.rules import RULES
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.records import PARTS, AdapterSize, Factors, Packet, Task, Update
from fedfit.rounds.client import Client
from fedfit.simulation.run import Simulation, run
from tests.builders import random_update, same_bits, tiny_recipe, tiny_simulation

RULE = RoLora()


def simulation(folder: Path, **sections: dict[str, object]) -> Simulation:
    federation = {"rule": "rolora", "rounds": 4, **sections.pop("federation", {})}
    return tiny_simulation(tiny_recipe(folder, federation=federation, **sections), None)


class Listening(SafetensorsCodec):
    """Keeps every packet: an order, its reply, the next order."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


def product(factors: Factors) -> torch.Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def test_the_table_names_the_rule() -> None:
    assert RULES["rolora"] is RoLora
    assert (RULE.mixed_ranks, RULE.fixed_rank, RULE.uniform, RULE.known) == (False, False, False, frozenset())


def test_b_comes_first_and_then_they_take_turns() -> None:
    """METHODS and paper: B in even, A in odd rounds, from round 0. Ours begin with round 1, so round n is their n − 1."""
    for number in range(1, 9):
        factor = "b" if (number - 1) % 2 == 0 else "a"
        assert RULE.trains(number) == {factor, "head"}


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from("ab"),
    st.lists(st.floats(1e-6, 2.0**53), min_size=1, max_size=6),
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=4, max_size=4),
)
def test_the_mean_of_equal_numbers_is_that_number(frozen: str, weights: list[float], values: list[float]) -> None:
    """The factor that no device trained keeps its bits through the sum in float64, subnormal and huge ones too."""
    fixed = torch.tensor(values, dtype=torch.float32)
    state = Update({"m": Factors(fixed[None], fixed[:, None], 2.0)}, {})
    rows = []
    for seed, weight in enumerate(weights):
        other = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        pair = Factors(fixed[None], other[:, None], 2.0) if frozen == "a" else Factors(other[None], fixed[:, None], 2.0)
        rows.append(Update({"m": pair}, {}, weight))
    after = RULE.apply(state, iter(rows)).factors["m"]
    assert torch.equal(getattr(after, frozen).flatten(), fixed)


@pytest.mark.parametrize("frozen", ["a", "b"])
def test_exact_where_fedavg_is_not(frozen: str) -> None:
    state = random_update(99)
    rows = []
    for seed, weight in enumerate((3.0, 5.0, 11.0)):
        update = random_update(seed, weight)
        factors = {n: replace(pair, **{frozen: getattr(state.factors[n], frozen)}) for n, pair in update.factors.items()}
        rows.append(replace(update, factors=factors))
    after = RULE.apply(state, iter(rows))
    assert same_bits(after, FedAvg().apply(state, iter(rows)))
    for name, pair in after.factors.items():
        exact = sum(row.weight / 19 * product(row.factors[name]) for row in rows)
        torch.testing.assert_close(product(pair), exact, rtol=1e-6, atol=1e-6)
    free = FedAvg().apply(state, [random_update(seed) for seed in range(3)])
    exact = sum(product(random_update(seed).factors["layer.0.query"]) / 3 for seed in range(3))
    assert float((product(free.factors["layer.0.query"]) - exact).norm()) > 0.1


def test_each_round_moves_one_factor_and_the_head(tiny_bert: Path) -> None:
    """From the fresh adapter, whose B is zero: the first round must train B, or it would learn the head alone."""
    results = list(run(simulation(tiny_bert)))
    assert not any(pair.b.any() for pair in results[0].state.factors.values())
    for before, after in pairwise(results):
        moving, still = ("b", "a") if after.record.round % 2 else ("a", "b")
        for name, pair in after.state.factors.items():
            old = before.state.factors[name]
            assert torch.equal(getattr(pair, still), getattr(old, still))
            assert not torch.equal(getattr(pair, moving), getattr(old, moving))
        for name, tensor in after.state.head.items():
            assert not torch.equal(tensor, before.state.head[name])


def test_a_first_round_that_trained_a_would_learn_the_head_alone(tiny_bert: Path) -> None:
    """Why the docstring puts B first: ∂A = s·Bᵀ·G·… is zero where B is, and SGD leaves A where it was."""
    made = simulation(tiny_bert, training={"optimizer": "sgd", "weight_decay": 0.0})
    update = made.client.train(Task(made.initial), made.train, made.parts[0], 1, 0, frozenset({"a", "head"}))
    assert all(torch.equal(pair.a, made.initial.factors[name].a) for name, pair in update.factors.items())
    assert not torch.equal(update.head["classifier.weight"], made.initial.head["classifier.weight"])


def test_both_factors_go_down_and_one_comes_up(tiny_bert: Path) -> None:
    """4 matrices of 32 → 32 at rank 2: a factor is 4·2·32 numbers of 4 bytes. The paper's downlink would be one factor."""
    made = simulation(tiny_bert)
    made.codec = codec = Listening()
    for result in islice(run(made), 1, 3):
        sent, codec.packets = [set(load(packet.payload)) for packet in codec.packets], []
        for number, names in enumerate(sent):
            found = {part for part, end in (("a", ".lora_A"), ("b", ".lora_B")) if any(name.endswith(end) for name in names)}
            assert found == ({"a", "b"} if number % 2 == 0 else RULE.trains(result.record.round) - {"head"})
            assert any(name.startswith("head.") for name in names)
        for device in result.devices:
            factor = 4 * 2 * 32 * 4
            assert factor - 100 <= device.downlink_bytes - device.uplink_bytes <= factor + 600


def test_a_device_that_missed_a_round_has_what_it_needs(tiny_bert: Path) -> None:
    """One of three devices a round: whoever is drawn trains from the server's own A and B, the untrained factor its bits."""
    made = simulation(tiny_bert, federation={"devices_per_round": 1})
    seen: list[Update] = []

    class Noting(Client):
        def train(self, task: Task, *rest: Any) -> Update:  # type: ignore[override]
            seen.append(task.update)
            return super().train(task, *rest)

    made.client = Noting(made.model, made.trunk, made.recipe.training, made.recipe.seed, 4)
    results = list(run(made))
    assert len({result.devices[0].device for result in results[1:]}) > 1
    assert all(same_bits(got, result.state) for got, result in zip(seen, results, strict=False))


def test_the_rank_may_change_between_rounds() -> None:
    state = random_update(99)
    assert same_bits(RULE.resize(state, AdapterSize(3, 1.0), seed=5), resize_update(state, AdapterSize(3, 1.0), seed=5))
    assert RULE.trains(1) < PARTS
