from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.ffa_lora import FFA_LORA
from fedfit.core.update import HEAD, LORA_A, LORA_B, AdapterSize, Factors, ServerState, Update, named_tensors, update_of
from fedfit.experiment.build import Experiment, assemble
from fedfit.rounds.loop import initial_result, run_round
from tests.aggregation.rewiring import connect
from tests.aggregation.watching import record
from tests.builders import link_of, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

GROUPS = frozenset({LORA_A, LORA_B, HEAD})


def applied(state: Update, updates: Iterable[Update]) -> Update:
    """The adapter after a round."""
    return FFA_LORA.server.apply(ServerState(state), updates).adapter


def updates(state: Update, weights: tuple[float, ...]) -> Iterator[Update]:
    """Devices that changed B and head, and hold the A of ``state``."""
    for seed, weight in enumerate(weights):
        update = random_update(seed, weight)
        factors = {name: replace(pair, a=state.factors[name].a.clone()) for name, pair in update.factors.items()}
        yield update.with_factors(factors)


def a_bits(update: Update) -> dict[str, bytes]:
    """The bytes of every A: signs of zeros and payloads of NaN as well."""
    return {name: pair.a.contiguous().numpy().tobytes() for name, pair in update.factors.items()}


def simulation(folder: Path) -> Experiment:
    return tiny_experiment(tiny_recipe(folder, federation={"rule": "ffa_lora", "rounds": 3}), None)


def test_the_table_names_the_rule() -> None:
    assert rule_of("ffa_lora") is FFA_LORA
    traits = FFA_LORA.traits
    assert (traits.needs, traits.mixed_ranks, traits.fixed_rank, traits.uniform) == ("pairs", False, True, False)
    assert traits.derivable == {LORA_A}
    for number in (1, 2, 7):
        ways = (traits.trained, traits.downlink_groups, traits.uplink_groups)
        assert all(groups(number, GROUPS) == {LORA_B, HEAD} for groups in ways)


@pytest.mark.parametrize("weights", [(1, 1, 1), (40_000, 12_345, 7), (0.2, 0.3, 0.5), (1 / 3, 1e-6, 2e-3)])
def test_b_and_head_are_the_mean_and_a_stays(weights: tuple[float, ...]) -> None:
    state = random_update(99)
    result = applied(state, updates(state, weights))
    expected = FEDAVG.server.apply(ServerState(state), updates(state, weights)).adapter
    for name, pair in result.factors.items():
        assert torch.equal(pair.b, expected.factors[name].b)
        assert pair.a is state.factors[name].a
    assert all(torch.equal(tensor, expected.groups[HEAD][name]) for name, tensor in result.groups[HEAD].items())
    before = ServerState(state)
    assert FFA_LORA.server.apply(before, iter([])) is before


def test_no_arithmetic_touches_a() -> None:
    """A negative zero plus a zero is a zero, and the least float32 halved is nothing: neither is seen by a sum here."""
    odd = torch.tensor([[-0.0, 1e-45, 3.4e38, 1 / 3]])
    state = update_of({"m": Factors(odd, torch.zeros(3, 1), 2.0)})
    other = update_of({"m": Factors(odd.clone(), torch.ones(3, 1), 2.0)}, weight=1 / 3)
    result = applied(state, [other, replace(other, weight=0.7)])
    assert a_bits(result) == a_bits(state)
    assert result.factors["m"].b.tolist() == [[1.0]] * 3


def test_exact_by_hand() -> None:
    """Weights 3 and 1: B = (3·1 + 1·5)/4 = 2, and s·B·A = 3·2·(1, 4); so is ¾·3·1·(1, 4) + ¼·3·5·(1, 4) = (6, 24)."""
    a = torch.tensor([[1.0, 4.0]])
    state, one, two = (
        update_of({"m": Factors(a, torch.tensor([[b]]), 3.0)}, weight=w) for b, w in ((0.0, 1.0), (1.0, 3.0), (5.0, 1.0))
    )
    pair = applied(state, [one, two]).factors["m"]
    assert (pair.scale * pair.b @ pair.a).tolist() == [[6.0, 24.0]]


def test_the_rank_of_the_first_round_stays() -> None:
    server, state = FFA_LORA.server, ServerState(random_update(99))
    assert server.resize(state, AdapterSize(2, 2.0), 1) is state
    assert server.dispatch(state, 3, AdapterSize(2, 2.0), 1) is state.adapter
    for size in (AdapterSize(1, 2.0), AdapterSize(3, 2.0), AdapterSize(2, 1.0)):
        with pytest.raises(ValueError, match="devices hold tensors of the first rank and scale"):
            server.resize(state, size, 1)


def test_a_is_the_initial_one_to_the_bit_after_a_whole_run(tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    initial = a_bits(made.initial)
    results = list(made.run())
    assert all(a_bits(result.state.adapter) == initial for result in results)
    for before, after in pairwise(result.state.adapter for result in results):
        assert all(not torch.equal(pair.b, before.factors[name].b) for name, pair in after.factors.items())
    fresh = simulation(tiny_bert)  # what any other device would draw from the recipe
    assert a_bits(fresh.initial) == initial


def test_a_never_travels_and_half_the_bytes_of_the_factors_are_saved(tiny_bert: Path) -> None:
    """Queries and values are 32 → 32: A and B are of one size. 2 layers, 2 matrices, rank 2: 4·2·32 numbers of 4 bytes."""
    made = simulation(tiny_bert)
    codec = record(made)
    devices = list(islice(made.run(), 2))[-1].devices
    names = [set(load(packet.payload)) for packet in codec.packets]
    assert len(names) == 6
    assert all(not any(name.startswith(LORA_A) for name in each) for each in names)
    assert all(sum(name.startswith(LORA_B) for name in each) == 4 for each in names)
    both = list(islice(tiny_experiment(tiny_recipe(tiny_bert, federation={"rounds": 3}), None).run(), 2))[-1].devices
    for mine, whole in zip(devices, both, strict=True):
        for less, more in ((mine.uplink_bytes, whole.uplink_bytes), (mine.downlink_bytes, whole.downlink_bytes)):
            assert 4 * 2 * 32 * 4 <= more - less <= 4 * 2 * 32 * 4 + 600  # and the names of A in the header


def test_a_device_that_did_not_draw_a_cannot_take_part(tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    connect(made, link_of(made, own=False))  # nothing of its own
    first = initial_result(made.federation, made.initial)
    result = run_round(made.federation, first.state, 1)
    missing = sorted(f"{LORA_A}.{name}" for name in made.initial.factors)
    assert [device.refused for device in result.devices] == [f"missing {missing}, unknown nothing"] * 3
    assert result.state is first.state


def test_it_learns_what_a_frozen_a_can(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rule": "ffa_lora", "rounds": 4}, training={"local_epochs": 3})
    made = tiny_experiment(recipe, None)
    made = assemble(replace(made.parts, sets={"test": made.parts.train}))
    losses = [result.record.value("test_loss") for result in made.run()]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < 0.9 * losses[0]


def test_the_row_space_is_that_of_the_first_a(tiny_bert: Path) -> None:
    """ΔW = s·B·A0, so what is orthogonal to the rows of A0 is never learned."""
    made = simulation(tiny_bert)
    adapter = list(made.run())[-1].state.adapter
    for name, pair in adapter.factors.items():
        basis = np.linalg.qr(made.initial.factors[name].a.double().numpy().T)[0]
        learned = (pair.scale * pair.b.double() @ pair.a.double()).numpy()
        assert np.linalg.norm(learned - learned @ basis @ basis.T) < 1e-12 * np.linalg.norm(learned) + 1e-15
        assert np.linalg.norm(learned) > 0
    assert not same_bits(adapter, made.initial)
    assert set(named_tensors(adapter)) == set(named_tensors(made.initial))
