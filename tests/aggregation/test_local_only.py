"""No federation: nothing travels, and each device is a lone run of the client from its own last state."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.local_only import LocalOnly
from fedfit.aggregation.rules import make_rule
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate
from fedfit.records import AdapterSize, Factors, Memory, RoundResult, Score, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.evaluate import evaluate
from fedfit.settings import FederationSettings, Recipe
from fedfit.simulation.run import Simulation, run
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.aggregation.watching import Recording, change_training, run_and_save
from tests.builders import random_update, same_bits, tiny_recipe, tiny_simulation

RULE = LocalOnly()
STATE = random_update(99, rank=4, scale=1.5)
RANKS = (1, 2, 3, 4)
SHARES = [np.arange(0, 6), np.arange(6, 20), np.arange(20, 40), np.arange(40, 48)]


def test_what_it_says_of_itself() -> None:
    assert type(make_rule(Recipe(federation=FederationSettings(rule="local_only")), 3)) is LocalOnly
    assert (RULE.mixed_ranks, RULE.fixed_rank, RULE.keeps_pair) == (True, True, False)
    assert RULE.home == RULE.trains(1) == {"a", "b", "head"}
    assert RULE.gets(1) == RULE.sends(1) == frozenset()


def test_the_server_learns_nothing() -> None:
    assert RULE.apply(STATE, iter([random_update(1), random_update(2)])) is STATE


@pytest.mark.parametrize("rank", RANKS)
def test_a_device_begins_with_the_first_rows_and_goes_on_from_its_own(rank: int) -> None:
    codec, initial = SafetensorsCodec(), STATE
    sent = RULE.dispatch(STATE, 0, AdapterSize(rank, 6 / rank), 0)
    read = codec.decode(codec.encode(sent, RULE.gets(1)), initial)
    first = RULE.receive(read, None).update
    for name, pair in first.factors.items():
        assert torch.equal(pair.a, STATE.factors[name].a[:rank])
        assert torch.equal(pair.b, STATE.factors[name].b[:, :rank])
        assert pair.scale == 6 / rank
    trained = random_update(5, rank=rank, scale=6 / rank)
    update, memory = RULE.send(Task(first), trained, None)
    assert memory is not None
    packet = codec.encode(update, RULE.sends(1))
    assert load(packet.payload) == {}
    for received in (read, STATE):  # in training, and when it is scored
        assert same_bits(RULE.receive(received, memory).update, trained)


# Whole federations


def federation(
    folder: Path, memories: Path | None = None, adapter: dict[str, Any] | None = None, rate: float = 1e-2, **keys: Any
) -> Simulation:
    settings = {"rule": "local_only", "rounds": 4, "devices": 4, "devices_per_round": 2, "ranks": RANKS, **keys}
    training = {"local_epochs": 2, "learning_rate": rate}
    recipe = tiny_recipe(folder, federation=settings, adapter=adapter or {"rank": 4}, training=training)
    made = tiny_simulation(recipe, None, parts=SHARES)
    made.memories = DeviceMemories(memories)
    return made


def start_of(made: Simulation, rank: int) -> Update:
    """The first rows of the initial A, B = 0, at α/r."""
    scale = made.recipe.adapter.alpha / rank
    factors = {n: Factors(p.a[:rank].clone(), torch.zeros(len(p.b), rank), scale) for n, p in made.initial.factors.items()}
    return replace(made.initial, factors=factors)


def test_each_device_is_a_lone_run(tiny_bert: Path) -> None:
    made, lone = federation(tiny_bert), federation(tiny_bert)
    own = {device: start_of(lone, rank) for device, rank in enumerate(RANKS)}
    turns = [0] * 4
    for result in run(made):
        number = result.record.round
        assert result.record.refused == 0
        for device in (record.device for record in result.devices):
            own[device] = lone.client.train(Task(own[device]), lone.train, SHARES[device], number, device)
            memory = made.memories.read(device, number + 1)
            assert memory is not None
            assert memory.tensors.keys() == named_tensors(own[device]).keys()
            assert all(torch.equal(memory.tensors[name], tensor) for name, tensor in named_tensors(own[device]).items())
            assert {len(pair.a) for pair in own[device].factors.values()} == {RANKS[device]}
            turns[device] += 1
        scores = []
        for update in own.values():
            lone.model.load(Task(update))
            scores.append(evaluate(lone.model, lone.trunk, lone.test))
        for mine, field in (("test_accuracy", "accuracy"), ("test_macro_f1", "macro_f1"), ("test_loss", "loss")):
            expected = math.fsum(getattr(score, field) for score in scores) / 4
            assert getattr(result.record, mine) == pytest.approx(expected, rel=1e-12)
        assert same_bits(result.state, made.initial)
    assert max(turns) > 1, "a device must have come back to its own"


@pytest.mark.parametrize("ranks", [(1, 1, 1, 1), (1, 8, 16, 32)], ids=str)
def test_nothing_but_framing_travels(ranks: tuple[int, ...], tiny_bert: Path) -> None:
    made = federation(tiny_bert, adapter={"rank": 32, "targets": ("query", "value")}, ranks=ranks, devices_per_round=4)
    codec = made.codec = Recording()
    results = list(run(made))
    assert len(codec.packets) == 2 * 4 * 4
    assert all(load(packet.payload) == {} for packet in codec.packets)
    lines = [device for result in results for device in result.devices]
    assert all(0 < device.uplink_bytes < 2000 and 0 < device.downlink_bytes < 2000 for device in lines)
    assert {device.refused for device in lines} == {None}


def same_rounds(mine: list[RoundResult], others: list[RoundResult]) -> bool:
    def line(result: RoundResult) -> Any:
        return replace(result.record, seconds=0, server_seconds=None), [replace(d, seconds=0) for d in result.devices]

    return [line(result) for result in mine] == [line(result) for result in others]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_bits(rounds: int, tiny_bert: Path, tmp_path: Path) -> None:
    whole = list(run(federation(tiny_bert, tmp_path / "whole")))
    checkpoints, made = Checkpoints(tmp_path), federation(tiny_bert, tmp_path / "killed")
    victim = whole[rounds].devices[1].device

    def kill(number: int, device: int, update: Update) -> Update:
        if (number, device) == (rounds, victim):
            raise KeyboardInterrupt
        return update

    change_training(made, kill)
    with pytest.raises(KeyboardInterrupt):
        run_and_save(made, checkpoints)
    last = checkpoints.latest()
    assert last is not None
    first = whole[rounds].devices[0].device
    wild = made.memories.read(first, rounds + 1)
    assert wild is not None
    spoilt = Memory({name: tensor + 1e3 for name, tensor in wild.tensors.items()}, wild.numbers)
    made.memories.write(first, rounds, spoilt)
    rest = list(run(federation(tiny_bert, tmp_path / "killed"), last=last))
    assert same_rounds(rest, whole[rounds:])
    for device in range(4):
        kept, wanted = (DeviceMemories(tmp_path / name).read(device, 99) for name in ("killed", "whole"))
        assert (kept is None) == (wanted is None)
        if kept is not None and wanted is not None:
            assert kept.numbers == wanted.numbers
            assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in wanted.tensors.items())


def test_a_score_is_never_that_of_another_run(tiny_bert: Path) -> None:
    """The same object run twice, the second time at another learning rate, its folder full of what the first run kept."""
    again, other = federation(tiny_bert), federation(tiny_bert, rate=3e-2)
    first = list(run(again))
    assert same_rounds(list(run(again)), first)
    again.client = Client(again.model, again.trunk, other.recipe.training, other.recipe.seed, 4)
    second = list(run(again))
    fresh = federation(tiny_bert, rate=3e-2)
    assert same_rounds(second, list(run(fresh)))
    assert not same_rounds(second, first)


def test_what_did_not_train_is_not_measured_again(tiny_bert: Path) -> None:
    made = federation(tiny_bert)
    measured: list[int] = [0]
    plain = made.evaluate

    def evaluate_and_count(task: Task) -> Score:
        measured[-1] += 1
        return plain(task)

    made.evaluate = evaluate_and_count  # type: ignore[method-assign]
    for _ in run(made):
        measured.append(0)
    assert measured == [1, 2, 2, 2, 2, 0]  # all alike at first; then the two devices of each round


@pytest.mark.parametrize("part", ["A", "B", "head"])
def test_a_device_whose_numbers_explode_goes_on_from_before(part: str, tiny_bert: Path) -> None:
    """No server sees them: the device itself refuses, and tries again from its last state."""
    made = federation(tiny_bert, devices_per_round=4, rounds=2)

    def spoil(number: int, device: int, update: Update) -> Update:
        if (number, device) != (1, 3):
            return update
        factors = {
            name: replace(pair, a=pair.a * (math.inf if part == "A" else 1), b=pair.b * (math.nan if part == "B" else 1))
            for name, pair in update.factors.items()
        }
        head = {name: tensor * (math.nan if part == "head" else 1) for name, tensor in update.head.items()}
        return replace(update, factors=factors, head=head)

    change_training(made, spoil)
    _, first, second = islice(run(made), 3)
    assert [device.device for device in first.devices if device.refused] == [3]
    assert f"{part}" in (first.devices[3].refused or "")
    assert "is not finite" in (first.devices[3].refused or "")
    assert math.isfinite(first.record.test_loss)
    assert second.record.refused == 0
    assert [made.memories.last_round(3, number) for number in (2, 3)] == [None, 2]


def test_a_plan_may_not_move_the_ranks(tiny_bert: Path) -> None:
    """A device holds factors of one rank: a plan of other ranks each round would have nothing to give them to."""
    for policy in ("per_device", "joint", "random_frequency"):
        words = [f"model.name={tiny_bert}", "federation.rule=local_only", f"plan.policy={policy}"]
        with pytest.raises(RecipeError, match="local_only needs one rank from first to last; choose fixed"):
            validate(parse_recipe("", words))
    validate(parse_recipe("", [f"model.name={tiny_bert}", "federation.rule=local_only", "plan.policy=fixed"]))
