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

from fedfit.aggregation.rules.local_only import LOCAL_ONLY
from fedfit.aggregation.table import make_rule
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import AdapterSize, Factors, Job, Memory, ServerState, Update, named_tensors
from fedfit.errors import RecipeError, UpdateRefused
from fedfit.experiment.build import Experiment, assemble
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate
from fedfit.records import RoundResult
from fedfit.rounds import evaluate as evaluation
from fedfit.rounds.devices import completed
from fedfit.rounds.evaluate import evaluate
from fedfit.settings import FederationSettings, Recipe
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.aggregation.watching import change_training, record, run_and_save, with_memories
from tests.builders import packed, random_update, same_bits, tiny_experiment, tiny_recipe

SERVER, DEVICE, TRAITS = LOCAL_ONLY.server, LOCAL_ONLY.device, LOCAL_ONLY.traits
START = random_update(99, rank=4, scale=1.5)
STATE = ServerState(START)
RANKS = (1, 2, 3, 4)
SHARES = [np.arange(0, 6), np.arange(6, 20), np.arange(20, 40), np.arange(40, 48)]


def test_what_it_says_of_itself() -> None:
    assert make_rule(Recipe(federation=FederationSettings(rule="local_only")), 3) is LOCAL_ONLY
    assert (TRAITS.mixed_ranks, TRAITS.fixed_rank, TRAITS.supports_server_optimizer) == (True, True, False)
    assert (TRAITS.shares, TRAITS.personal) == (False, True)
    groups = frozenset({"lora_A", "lora_B", "head", "prompt"})
    assert TRAITS.trained(1, groups) == groups
    assert TRAITS.downlink_groups(1, groups) == TRAITS.uplink_groups(1, groups) == frozenset()


def test_the_server_learns_nothing() -> None:
    assert SERVER.apply(STATE, iter([random_update(1), random_update(2)])) is STATE


@pytest.mark.parametrize("rank", RANKS)
def test_a_device_begins_with_the_first_rows_and_goes_on_from_its_own(rank: int) -> None:
    sent = SERVER.dispatch(STATE, 0, AdapterSize(rank, 6 / rank), 0)
    packet = packed(sent.only(TRAITS.downlink_groups(1, START.present)))
    read = completed(PlainCodec().decode(packet, START), START)
    first = DEVICE.receive(read, None).update
    for name, pair in first.factors.items():
        assert torch.equal(pair.a, START.factors[name].a[:rank])
        assert torch.equal(pair.b, START.factors[name].b[:, :rank])
        assert pair.scale == 6 / rank
    trained = random_update(5, rank=rank, scale=6 / rank)
    update, memory = DEVICE.send(Job(first), trained, None)
    assert memory is not None
    assert load(packed(update.only(TRAITS.uplink_groups(1, START.present))).payload) == {}
    for received in (read, START):  # in training, and when it is scored
        assert same_bits(DEVICE.receive(received, memory).update, trained)


@pytest.mark.parametrize("rank", ["2", 2.0, True])
def test_a_rank_of_another_type_is_refused(rank: str | float | bool) -> None:
    with pytest.raises(UpdateRefused, match="rank"):
        DEVICE.receive(replace(START, facts={"rank": rank}), None)


# Whole federations


def federation(
    folder: Path, memories: Path | None = None, adapter: dict[str, Any] | None = None, rate: float = 1e-2, **keys: Any
) -> Experiment:
    settings = {"rule": "local_only", "rounds": 4, "devices": 4, "devices_per_round": 2, "ranks": RANKS, **keys}
    training = {"local_epochs": 2, "learning_rate": rate}
    recipe = tiny_recipe(folder, federation=settings, adapter=adapter or {"rank": 4}, training=training)
    return with_memories(tiny_experiment(recipe, None, parts=SHARES), memories)


def start_of(made: Experiment, rank: int) -> Update:
    """The first rows of the initial A, B = 0, at α/r."""
    scale = made.recipe.adapter.alpha / rank
    factors = {n: Factors(p.a[:rank].clone(), torch.zeros(len(p.b), rank), scale) for n, p in made.initial.factors.items()}
    return made.initial.with_factors(factors)


def test_each_device_is_a_lone_run(tiny_bert: Path) -> None:
    made, lone = federation(tiny_bert), federation(tiny_bert)
    own = {device: start_of(lone, rank) for device, rank in enumerate(RANKS)}
    turns = [0] * 4
    for result in made.run():
        number = result.record.round
        assert result.record.refused == 0
        for device in (line.device for line in result.devices):
            own[device] = lone.trainer.train(Job(own[device]), lone.parts.train, SHARES[device], number, device)
            memory = made.parts.memories.read(device, number + 1)
            assert memory is not None
            assert memory.tensors.keys() == named_tensors(own[device]).keys()
            assert all(torch.equal(memory.tensors[name], tensor) for name, tensor in named_tensors(own[device]).items())
            assert {len(pair.a) for pair in own[device].factors.values()} == {RANKS[device]}
            turns[device] += 1
        scores, parts = [], lone.parts
        for update in own.values():
            parts.model.load(Job(update))
            scores.append(evaluate(parts.model, parts.trunk, parts.task, parts.sets["test"]))
        assert {f"test_{name}" for name in scores[0]} == result.record.metrics.keys()
        for name in ("accuracy", "macro_f1", "loss"):
            expected = math.fsum(score[name].value for score in scores) / 4
            assert result.record.value(f"test_{name}") == pytest.approx(expected, rel=1e-12)
        assert same_bits(result.state.adapter, made.initial)
    assert max(turns) > 1, "a device must have come back to its own"


@pytest.mark.parametrize("ranks", [(1, 1, 1, 1), (1, 8, 16, 32)], ids=str)
def test_nothing_but_framing_travels(ranks: tuple[int, ...], tiny_bert: Path) -> None:
    made = federation(tiny_bert, adapter={"rank": 32, "targets": ("query", "value")}, ranks=ranks, devices_per_round=4)
    codec = record(made)
    results = list(made.run())
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
    whole = list(federation(tiny_bert, tmp_path / "whole").run())
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
    wild = made.parts.memories.read(first, rounds + 1)
    assert wild is not None
    spoilt = Memory({name: tensor + 1e3 for name, tensor in wild.tensors.items()}, wild.numbers)
    made.parts.memories.write(first, rounds, spoilt)
    rest = list(federation(tiny_bert, tmp_path / "killed").run(last))
    assert same_rounds(rest, whole[rounds:])
    for device in range(4):
        kept, wanted = (DeviceMemories(tmp_path / name).read(device, 99) for name in ("killed", "whole"))
        assert (kept is None) == (wanted is None)
        if kept is not None and wanted is not None:
            assert kept.numbers == wanted.numbers
            assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in wanted.tensors.items())


def test_a_score_is_never_that_of_another_run(tiny_bert: Path) -> None:
    """The same object run again, and one at another learning rate whose folder is full of the first one's memories."""
    made, fresh = federation(tiny_bert), federation(tiny_bert, rate=3e-2)
    first = list(made.run())
    assert same_rounds(list(made.run()), first)
    other = assemble(replace(fresh.parts, memories=made.parts.memories))
    second = list(other.run())
    assert same_rounds(second, list(fresh.run()))
    assert not same_rounds(second, first)


@pytest.mark.parametrize("rounds", [0, 2])
def test_the_same_object_scores_anew_when_it_is_run_again(rounds: int, tiny_bert: Path) -> None:
    """Devices that train twice as far the second time, from the start or from a round of the first run."""

    def further(number: int, device: int, update: Update) -> Update:
        return update.with_factors({name: replace(pair, b=pair.b * 2) for name, pair in update.factors.items()})

    made, fresh = federation(tiny_bert), federation(tiny_bert)
    for each in (made, fresh):
        first = list(islice(each.run(), rounds + 1))
    for _ in made.run(first[-1]):
        pass
    for each in (made, fresh):
        change_training(each, further)
    mine, theirs = list(made.run(first[-1])), list(fresh.run(first[-1]))
    assert len(mine) == 4 - rounds
    assert same_rounds(mine, theirs)


def test_what_did_not_train_is_not_measured_again(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = federation(tiny_bert)
    measured: list[int] = [0]

    def evaluate_and_count(*args: Any) -> Any:
        measured[-1] += 1
        return evaluate(*args)

    monkeypatch.setattr(evaluation, "evaluate", evaluate_and_count)
    for _ in made.run():
        measured.append(0)
    assert measured == [1, 2, 2, 2, 2, 0]  # all alike at first; then the two devices of each round


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "head"])
def test_a_device_whose_numbers_explode_goes_on_from_before(part: str, tiny_bert: Path) -> None:
    """No server sees them: the device itself refuses, and tries again from its last state."""
    made = federation(tiny_bert, devices_per_round=4, rounds=2)

    def spoil(number: int, device: int, update: Update) -> Update:
        if (number, device) != (1, 3):
            return update
        factors = {
            name: replace(
                pair, a=pair.a * (math.inf if part == "lora_A" else 1), b=pair.b * (math.nan if part == "lora_B" else 1)
            )
            for name, pair in update.factors.items()
        }
        head = {name: tensor * (math.nan if part == "head" else 1) for name, tensor in update.groups["head"].items()}
        return update.with_factors(factors).with_groups({"head": head})

    change_training(made, spoil)
    _, first, second = islice(made.run(), 3)
    assert [device.device for device in first.devices if device.refused] == [3]
    assert f"{part}." in (first.devices[3].refused or "")
    assert "is not finite" in (first.devices[3].refused or "")
    assert math.isfinite(first.record.metrics["test_loss"].value)
    assert second.record.refused == 0
    assert [made.parts.memories.last_round(3, number) for number in (2, 3)] == [None, 2]


def test_a_plan_may_not_move_the_ranks(tiny_bert: Path) -> None:
    """A device holds factors of one rank: a plan of other ranks each round would have nothing to give them to."""
    for policy in ("per_device", "joint", "random_frequency"):
        words = [f"model.name={tiny_bert}", "federation.rule=local_only", f"plan.policy={policy}"]
        with pytest.raises(RecipeError, match="local_only needs one rank from first to last; choose fixed"):
            validate(parse_recipe("", words))
    validate(parse_recipe("", [f"model.name={tiny_bert}", "federation.rule=local_only", "plan.policy=fixed"]))
