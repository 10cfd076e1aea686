"""FedSA-LoRA: A and head are shared, each device's B stays with it; against a twin that keeps a plain dict of B a device."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedsa_lora import FedSaLora
from fedfit.aggregation.rules import make_rule
from fedfit.errors import UpdateRefused
from fedfit.records import AdapterSize, Memory, RoundResult, Task, Update
from fedfit.rounds.evaluate import evaluate
from fedfit.settings import FederationSettings, Recipe
from fedfit.simulation.run import Simulation, run
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.aggregation.watching import Recording, change_training, run_and_save
from tests.builders import random_update, same_bits, tiny_recipe, tiny_simulation

RULE = FedSaLora()
STATE = random_update(99)
MODULES = list(STATE.factors)


def test_what_it_says_of_itself() -> None:
    assert type(make_rule(Recipe(federation=FederationSettings(rule="fedsa_lora")), 3)) is FedSaLora
    assert (RULE.mixed_ranks, RULE.fixed_rank, RULE.uniform, RULE.keeps_pair) == (False, True, False, True)
    for number in range(4):
        assert RULE.trains(number) == {"a", "b", "head"}
        assert RULE.gets(number) == RULE.sends(number) == {"a", "head"}
    assert RULE.home == {"b"}


def test_a_device_joins_its_own_b_to_what_is_shared() -> None:
    memory = Memory({name: torch.full((5, 2), number + 1.0) for number, name in enumerate(MODULES)})
    task = RULE.receive(STATE, memory)
    for name, pair in task.update.factors.items():
        assert pair.a is STATE.factors[name].a
        assert pair.b is memory.tensors[name]
        assert pair.scale == STATE.factors[name].scale
    assert task.update.head is STATE.head
    assert RULE.receive(STATE, None).update is STATE
    sent, kept = RULE.send(task, random_update(5), memory)
    assert kept is not None
    assert {name: id(tensor) for name, tensor in kept.tensors.items()} == {n: id(p.b) for n, p in sent.factors.items()}


def test_the_rank_cannot_change() -> None:
    assert RULE.resize(STATE, AdapterSize(2, 2.0), seed=0) is STATE
    for size in (AdapterSize(1, 2.0), AdapterSize(2, 1.0)):
        with pytest.raises(ValueError, match="B of their own"):
            RULE.resize(STATE, size, seed=0)


# Whole federations

PARTS_OF = [np.arange(0, 6), np.arange(6, 20), np.empty(0, dtype=np.int64), np.arange(20, 40), np.arange(40, 48)]
"""Device 2 holds nothing, and is no device to the score."""


def federation(folder: Path, memories: Path | None = None, rule: str = "fedsa_lora", **keys: Any) -> Simulation:
    settings = {"rule": rule, "rounds": 4, "devices": 5, "devices_per_round": 2, **keys}
    recipe = tiny_recipe(folder, federation=settings, training={"local_epochs": 2})
    made = tiny_simulation(recipe, None, parts=PARTS_OF)
    made.memories = DeviceMemories(memories)
    return made


def with_b(update: Update, own: dict[str, Tensor]) -> Update:
    return replace(update, factors={name: replace(pair, b=own[name]) for name, pair in update.factors.items()})


def test_a_federation_is_its_slow_twin(tiny_bert: Path) -> None:
    """Each device a dict of its B; A and head averaged by hand, to where float32 ends, then taken over to stay to the bit."""
    made, twin = federation(tiny_bert), federation(tiny_bert)
    zero = {name: torch.zeros_like(pair.b) for name, pair in twin.initial.factors.items()}
    own = {device: zero for device, part in enumerate(PARTS_OF) if len(part)}
    seen: list[int] = []
    results: list[RoundResult] = []
    for result in run(made):
        results.append(result)
        if result.record.round:
            before, devices = results[-2].state, [device.device for device in result.devices]
            seen += devices
            total = sum(len(PARTS_OF[device]) for device in devices)
            mean = {name: torch.zeros_like(tensor).double() for name, tensor in named_tensors(before).items()}
            for device in devices:
                task = Task(with_b(before, own[device]))
                trained = twin.client.train(task, twin.train, PARTS_OF[device], result.record.round, device)
                own[device] = {name: pair.b for name, pair in trained.factors.items()}
                for name, tensor in named_tensors(trained).items():
                    mean[name] += len(PARTS_OF[device]) / total * tensor.double()
            for name, tensor in named_tensors(result.state).items():
                if name.endswith(" B"):
                    assert not tensor.any(), "the server's B is the initial one"
                else:
                    torch.testing.assert_close(tensor.double(), mean[name], rtol=1e-6, atol=1e-7)
                    assert not torch.equal(tensor, named_tensors(before)[name])
        scores = []
        for b in own.values():  # the mean over all devices with data, those of this round and the others
            twin.model.load(Task(with_b(result.state, b)))
            scores.append(evaluate(twin.model, twin.trunk, twin.test))
        for mine, field in (("test_accuracy", "accuracy"), ("test_macro_f1", "macro_f1"), ("test_loss", "loss")):
            expected = math.fsum(getattr(score, field) for score in scores) / 4
            assert getattr(result.record, mine) == pytest.approx(expected, rel=1e-12)
        if result.record.round > 1:
            assert len({score.loss for score in scores}) > 1, "devices that are all alike prove nothing"
    for device, tensors in own.items():
        kept = made.memories.read(device, 99)
        if device in seen:
            assert kept is not None
            assert kept.tensors.keys() == tensors.keys()
            assert all(torch.equal(kept.tensors[name], tensor) for name, tensor in tensors.items())
        else:
            assert kept is None
    assert max(seen.count(device) for device in seen) > 1, "a device must have come back to its B"


def test_a_device_that_never_took_part_has_the_initial_b(tiny_bert: Path) -> None:
    """One round of one device: the others are scored with the shared A and head and B = 0."""
    made = federation(tiny_bert, rounds=1, devices_per_round=1)
    result = list(run(made))[-1]
    (record,) = result.devices
    scores = {}
    for device in (0, 1, 3, 4):
        memory = made.memories.read(device, 2)
        assert (memory is None) == (device != record.device)
        made.model.load(Task(result.state) if memory is None else Task(with_b(result.state, dict(memory.tensors))))
        scores[device] = evaluate(made.model, made.trunk, made.test).loss
    assert len(set(scores.values())) == 2
    assert result.record.test_loss == pytest.approx(math.fsum(scores.values()) / 4, rel=1e-12)


def test_b_is_in_no_packet(tiny_bert: Path) -> None:
    made = federation(tiny_bert)
    codec = made.codec = Recording()
    results = list(run(made))
    wanted = {f"{name}.lora_A" for name in made.initial.factors} | {f"head.{name}" for name in made.initial.head}
    assert len(codec.packets) == 2 * 2 * 4
    assert all(load(packet.payload).keys() == wanted for packet in codec.packets)
    sizes = [packet.size_bytes for packet in codec.packets]
    assert sum(sizes) == sum(result.record.uplink_bytes + result.record.downlink_bytes for result in results)
    shared = sum(t.numel() for n, t in named_tensors(made.initial).items() if not n.endswith(" B"))
    assert all(4 * shared < size < 4 * shared + 2000 for size in sizes)
    whole = list(run(federation(tiny_bert, rule="fedavg")))
    at_home = sum(pair.b.numel() for pair in made.initial.factors.values())
    for mine, other in zip(results[1:], whole[1:], strict=True):
        for direction in ("uplink_bytes", "downlink_bytes"):
            less = getattr(other.record, direction) - getattr(mine.record, direction)
            assert 4 * at_home <= less / 2 < 4 * at_home + 1000


# Killed, resumed, refused


def same_rounds(mine: list[RoundResult], others: list[RoundResult]) -> bool:
    def line(result: RoundResult) -> Any:
        return replace(result.record, seconds=0, server_seconds=None), [replace(d, seconds=0) for d in result.devices]

    pairs = list(zip(mine, others, strict=True))
    return all(same_bits(one.state, two.state) and line(one) == line(two) for one, two in pairs)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_run_killed_in_mid_round_goes_on_to_the_same_bits(rounds: int, tiny_bert: Path, tmp_path: Path) -> None:
    """The first device of the round has kept what it trained, and the round never counted: wild numbers there do nothing."""
    whole = list(run(federation(tiny_bert, tmp_path / "whole")))
    made, stream = federation(tiny_bert, tmp_path / "killed"), Checkpoints(tmp_path)
    victim = whole[rounds].devices[1].device

    def kill(number: int, device: int, update: Update) -> Update:
        if (number, device) == (rounds, victim):
            raise KeyboardInterrupt
        return update

    change_training(made, kill)
    with pytest.raises(KeyboardInterrupt):
        run_and_save(made, stream)
    last = stream.latest()
    assert last is not None
    assert last.record.round == rounds - 1
    first = whole[rounds].devices[0].device
    wild = made.memories.read(first, rounds + 1)
    assert wild is not None
    assert made.memories.last_round(first, rounds + 1) == rounds
    made.memories.write(first, rounds, Memory({name: tensor + 1e3 for name, tensor in wild.tensors.items()}))
    rest = list(run(federation(tiny_bert, tmp_path / "killed"), last=last))
    assert same_rounds(rest, whole[rounds:])


def test_a_reply_that_the_server_refuses_has_moved_b_all_the_same(tiny_bert: Path) -> None:
    """The device is not told: its B is what it trained, and the score is of that. The shared parts go on without it."""
    made = federation(tiny_bert, devices_per_round=4, rounds=1)
    trained = {}

    def spoil(number: int, device: int, update: Update) -> Update:
        trained[device] = {name: pair.b for name, pair in update.factors.items()}
        head = {name: tensor + math.inf for name, tensor in update.head.items()}
        return replace(update, head=head) if device == 3 else update

    change_training(made, spoil)
    result = list(run(made))[-1]
    assert [device.device for device in result.devices if device.refused] == [3]
    for device, tensors in trained.items():
        memory = made.memories.read(device, 2)
        assert memory is not None
        assert all(torch.equal(memory.tensors[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("way", ["refuses itself", "b is not finite"])
def test_a_device_that_cannot_answer_keeps_nothing(way: str, tiny_bert: Path) -> None:
    """B alone may be what went wrong, and no server would ever see it."""
    made = federation(tiny_bert, devices_per_round=4, rounds=2)

    def spoil(number: int, device: int, update: Update) -> Update:
        if (number, device) != (1, 3):
            return update
        if way == "refuses itself":
            raise UpdateRefused("not today")
        return with_b(update, {name: pair.b * math.nan for name, pair in update.factors.items()})

    change_training(made, spoil)
    _, first, second = run(made)
    assert [(device.device, device.uplink_bytes) for device in first.devices if device.refused] == [(3, 0)]
    assert made.memories.last_round(3, 2) is None
    assert math.isfinite(first.record.test_loss)
    assert second.record.refused == 0
    assert made.memories.last_round(3, 3) == 2


def test_a_resumed_run_in_one_process_is_the_whole_one(tiny_bert: Path) -> None:
    whole = list(run(federation(tiny_bert)))
    made = federation(tiny_bert)
    begun = list(islice(run(made), 3))
    assert same_rounds(begun + list(run(made, last=begun[-1])), whole)
