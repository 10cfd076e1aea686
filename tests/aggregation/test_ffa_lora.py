from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.ffa_lora import FfaLora
from fedfit.aggregation.rules import RULES
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.records import PARTS, AdapterSize, Factors, Packet, Update
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import initial_result, run_round
from fedfit.simulation.run import Simulation, run
from tests.builders import link_of, random_update, same_bits, tiny_recipe, tiny_simulation

RULE = FfaLora()


class Listening(SafetensorsCodec):
    """Keeps every packet: an order, its reply, the next order."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


def updates(state: Update, weights: tuple[float, ...]) -> Iterator[Update]:
    """Devices that changed B and head, and hold the A of ``state``."""
    for seed, weight in enumerate(weights):
        update = random_update(seed, weight)
        factors = {name: replace(pair, a=state.factors[name].a.clone()) for name, pair in update.factors.items()}
        yield replace(update, factors=factors)


def a_bits(update: Update) -> dict[str, bytes]:
    """The bytes of every A: signs of zeros and payloads of NaN as well."""
    return {name: pair.a.contiguous().numpy().tobytes() for name, pair in update.factors.items()}


def simulation(folder: Path) -> Simulation:
    return tiny_simulation(tiny_recipe(folder, federation={"rule": "ffa_lora", "rounds": 3}), None)


def test_the_table_names_the_rule() -> None:
    assert RULES["ffa_lora"] is FfaLora
    assert (RULE.mixed_ranks, RULE.fixed_rank, RULE.uniform, RULE.known) == (False, True, False, frozenset("a"))
    assert all(RULE.trains(number) == {"b", "head"} for number in (1, 2, 7))


@pytest.mark.parametrize("weights", [(1, 1, 1), (40_000, 12_345, 7), (0.2, 0.3, 0.5), (1 / 3, 1e-6, 2e-3)])
def test_b_and_head_are_the_mean_and_a_stays(weights: tuple[float, ...]) -> None:
    state = random_update(99)
    result = RULE.apply(state, updates(state, weights))
    expected = FedAvg().apply(state, updates(state, weights))
    for name, pair in result.factors.items():
        assert torch.equal(pair.b, expected.factors[name].b)
        assert pair.a is state.factors[name].a
    assert all(torch.equal(tensor, expected.head[name]) for name, tensor in result.head.items())
    assert RULE.apply(state, iter([])) is state


def test_no_arithmetic_touches_a() -> None:
    """A negative zero plus a zero is a zero, and the least float32 halved is nothing: neither is seen by a sum here."""
    odd = torch.tensor([[-0.0, 1e-45, 3.4e38, 1 / 3]])
    state = Update({"m": Factors(odd, torch.zeros(3, 1), 2.0)}, {})
    other = Update({"m": Factors(odd.clone(), torch.ones(3, 1), 2.0)}, {}, weight=1 / 3)
    result = RULE.apply(state, [other, replace(other, weight=0.7)])
    assert a_bits(result) == a_bits(state)
    assert result.factors["m"].b.tolist() == [[1.0]] * 3


def test_exact_by_hand() -> None:
    """Weights 3 and 1: B = (3·1 + 1·5)/4 = 2, and s·B·A = 3·2·(1, 4); so is ¾·3·1·(1, 4) + ¼·3·5·(1, 4) = (6, 24)."""
    a = torch.tensor([[1.0, 4.0]])
    state, one, two = (
        Update({"m": Factors(a, torch.tensor([[b]]), 3.0)}, {}, w) for b, w in ((0.0, 1.0), (1.0, 3.0), (5.0, 1.0))
    )
    pair = RULE.apply(state, [one, two]).factors["m"]
    assert (pair.scale * pair.b @ pair.a).tolist() == [[6.0, 24.0]]


def test_the_rank_of_the_first_round_stays() -> None:
    state = random_update(99)
    assert RULE.resize(state, AdapterSize(2, 2.0), seed=1) is state
    assert RULE.dispatch(state, 3, AdapterSize(2, 2.0), seed=1) is state
    for size in (AdapterSize(1, 2.0), AdapterSize(3, 2.0), AdapterSize(2, 1.0)):
        with pytest.raises(ValueError, match="stays as it was drawn"):
            RULE.resize(state, size, seed=1)


def test_a_is_the_initial_one_to_the_bit_after_a_whole_run(tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    initial = a_bits(made.initial)
    results = list(run(made))
    assert all(a_bits(result.state) == initial for result in results)
    for before, after in pairwise(results):
        assert all(not torch.equal(pair.b, before.state.factors[name].b) for name, pair in after.state.factors.items())
    fresh = simulation(tiny_bert)  # what any other device would draw from the recipe
    assert a_bits(fresh.initial) == initial


def test_a_never_travels_and_half_the_bytes_of_the_factors_are_saved(tiny_bert: Path) -> None:
    """Queries and values are 32 → 32: A and B are of one size. 2 layers, 2 matrices, rank 2: 4·2·32 numbers of 4 bytes."""
    made = simulation(tiny_bert)
    made.codec = codec = Listening()
    devices = list(islice(run(made), 2))[-1].devices
    names = [set(load(packet.payload)) for packet in codec.packets]
    assert len(names) == 6
    assert all(not any(name.endswith("lora_A") for name in each) for each in names)
    assert all(sum(name.endswith("lora_B") for name in each) == 4 for each in names)
    both = list(islice(run(tiny_simulation(tiny_recipe(tiny_bert, federation={"rounds": 3}), None)), 2))[-1].devices
    for mine, whole in zip(devices, both, strict=True):
        for less, more in ((mine.uplink_bytes, whole.uplink_bytes), (mine.downlink_bytes, whole.downlink_bytes)):
            assert 4 * 2 * 32 * 4 <= more - less <= 4 * 2 * 32 * 4 + 600  # and the names of A in the header


def test_a_device_that_did_not_draw_a_cannot_take_part(tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    link = link_of(made, own=False)  # nothing of its own
    federation = Federation(made.rule, made.codec, link, made.score, [16] * 3, 3, 0, made.recipe.adapter.size, [2] * 3)
    result = run_round(federation, initial_result(federation, made.initial).state, 1)
    assert ["['b', 'head'] alone" in str(device.refused) for device in result.devices] == [True] * 3
    assert result.state is made.initial


def test_it_learns_what_a_frozen_a_can(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rule": "ffa_lora", "rounds": 4}, training={"local_epochs": 3})
    made = tiny_simulation(recipe, None)
    made.test = made.train
    records = [result.record for result in run(made)]
    assert records[-1].test_loss < 0.9 * records[0].test_loss


def test_the_row_space_is_that_of_the_first_a(tiny_bert: Path) -> None:
    """ΔW = s·B·A0, so what is orthogonal to the rows of A0 is never learned."""
    made = simulation(tiny_bert)
    state = list(run(made))[-1].state
    for name, pair in state.factors.items():
        basis = np.linalg.qr(made.initial.factors[name].a.double().numpy().T)[0]
        learned = (pair.scale * pair.b.double() @ pair.a.double()).numpy()
        assert np.linalg.norm(learned - learned @ basis @ basis.T) < 1e-12 * np.linalg.norm(learned) + 1e-15
        assert np.linalg.norm(learned) > 0
    assert not same_bits(state, made.initial)
    assert set(named_tensors(state)) == set(named_tensors(made.initial))
