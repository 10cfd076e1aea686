"""FedSA-LoRA: A and head are shared, each device's B stays with it; against a twin that keeps a plain dict of B a device."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.rules.fedsa_lora import FEDSA_LORA
from fedfit.core.update import HEAD, LORA_A, LORA_B, AdapterSize, Job, Memory, ServerState, Update, named_tensors
from fedfit.errors import UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.records import RoundResult
from fedfit.rounds.evaluate import evaluate
from fedfit.tracking.checkpoint import Checkpoints
from tests.aggregation.watching import change_training, record, run_and_save, with_memories
from tests.builders import random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

STATE = random_update(99)
MODULES = list(STATE.factors)
GROUPS = STATE.present


def test_what_it_says_of_itself() -> None:
    assert rule_of("fedsa_lora") is FEDSA_LORA
    traits = FEDSA_LORA.traits
    assert (traits.mixed_ranks, traits.fixed_rank, traits.uniform) == (False, True, False)
    assert (traits.needs, traits.supports_server_optimizer, traits.shares, traits.personal) == ("pairs", True, True, True)
    for number in range(1, 5):
        assert traits.trained(number, GROUPS) == {LORA_A, LORA_B, HEAD}
        assert traits.downlink_groups(number, GROUPS) == traits.uplink_groups(number, GROUPS) == {LORA_A, HEAD}
    assert traits.private == {LORA_B}


def test_a_device_joins_its_own_b_to_what_is_shared() -> None:
    memory = Memory({name: torch.full((5, 2), number + 1.0) for number, name in enumerate(MODULES)})
    device = FEDSA_LORA.device
    job = device.receive(STATE, memory)
    assert job.update.factors.keys() == STATE.factors.keys()
    for name, pair in job.update.factors.items():
        assert pair.a is STATE.factors[name].a
        assert pair.b is memory.tensors[name]
        assert pair.scale == STATE.factors[name].scale
    assert job.update.groups[HEAD] is STATE.groups[HEAD]
    assert device.receive(STATE, None).update is STATE
    sent, kept = device.send(job, random_update(5), memory)
    assert kept is not None
    assert {name: id(tensor) for name, tensor in kept.tensors.items()} == {n: id(p.b) for n, p in sent.factors.items()}


def test_the_rank_cannot_change() -> None:
    state = ServerState(STATE)
    assert FEDSA_LORA.server.resize(state, AdapterSize(2, 2.0), 0) is state
    for size in (AdapterSize(1, 2.0), AdapterSize(2, 1.0)):
        with pytest.raises(ValueError, match="devices hold tensors of the first rank and scale"):
            FEDSA_LORA.server.resize(state, size, 0)


# Whole federations

PARTS_OF = [np.arange(0, 6), np.arange(6, 20), np.empty(0, dtype=np.int64), np.arange(20, 40), np.arange(40, 48)]
"""Device 2 holds nothing, and is no device to the score."""


def federation(folder: Path, memories: Path | None = None, rule: str = "fedsa_lora", **keys: Any) -> Experiment:
    settings = {"rule": rule, "rounds": 4, "devices": 5, "devices_per_round": 2, **keys}
    recipe = tiny_recipe(folder, federation=settings, training={"local_epochs": 2})
    return with_memories(tiny_experiment(recipe, None, parts=PARTS_OF), memories)


def with_b(update: Update, own: Mapping[str, Tensor]) -> Update:
    return update.with_groups({LORA_B: own})


def score_of(made: Experiment, adapter: Update) -> dict[str, float]:
    """The metrics of ``adapter`` on the common test set."""
    parts = made.parts
    parts.model.load(Job(adapter))
    return {name: metric.value for name, metric in evaluate(parts.model, parts.trunk, parts.task, parts.sets["test"]).items()}


def test_a_federation_is_its_slow_twin(tiny_bert: Path) -> None:
    """Each device a dict of its B; A and head averaged by hand, to where float32 ends, then taken over to stay to the bit."""
    made, twin = federation(tiny_bert), federation(tiny_bert)
    zero = {name: torch.zeros_like(pair.b) for name, pair in twin.initial.factors.items()}
    own: dict[int, Mapping[str, Tensor]] = {device: zero for device, part in enumerate(PARTS_OF) if len(part)}
    seen: list[int] = []
    results: list[RoundResult] = []
    for result in made.run():
        results.append(result)
        adapter = result.state.adapter
        if result.record.round:
            before, devices = results[-2].state.adapter, [device.device for device in result.devices]
            seen += devices
            total = sum(len(PARTS_OF[device]) for device in devices)
            mean = {name: torch.zeros_like(tensor).double() for name, tensor in named_tensors(before).items()}
            for device in devices:
                job = Job(with_b(before, own[device]))
                trained = twin.trainer.train(job, twin.parts.train, PARTS_OF[device], result.record.round, device)
                own[device] = trained.groups[LORA_B]
                for name, tensor in named_tensors(trained).items():
                    mean[name] += len(PARTS_OF[device]) / total * tensor.double()
            for name, tensor in named_tensors(adapter).items():
                if name.startswith(LORA_B):
                    assert not tensor.any(), "the server's B is the initial one"
                else:
                    torch.testing.assert_close(tensor.double(), mean[name], rtol=1e-6, atol=1e-7)
                    assert not torch.equal(tensor, named_tensors(before)[name])
        scores = []
        for b in own.values():  # the mean over all devices with data, those of this round and the others
            scores.append(score_of(twin, with_b(adapter, b)))
        assert result.record.metrics.keys() == {"test_accuracy", "test_macro_f1", "test_loss"}
        for name in ("accuracy", "macro_f1", "loss"):
            expected = math.fsum(score[name] for score in scores) / 4
            assert result.record.value(f"test_{name}") == pytest.approx(expected, rel=1e-12)
        if result.record.round > 1:
            assert len({score["loss"] for score in scores}) > 1, "devices that are all alike prove nothing"
    for device, tensors in own.items():
        kept = made.parts.memories.read(device, 99)
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
    result = list(made.run())[-1]
    (record,) = result.devices
    scores = {}
    for device in (0, 1, 3, 4):
        memory = made.parts.memories.read(device, 2)
        assert (memory is None) == (device != record.device)
        adapter = result.state.adapter
        scores[device] = score_of(made, adapter if memory is None else with_b(adapter, memory.tensors))["loss"]
    assert len(set(scores.values())) == 2
    assert result.record.value("test_loss") == pytest.approx(math.fsum(scores.values()) / 4, rel=1e-12)


def test_b_is_in_no_packet(tiny_bert: Path) -> None:
    made = federation(tiny_bert)
    codec = record(made)
    results = list(made.run())
    wanted = {name for name in named_tensors(made.initial) if not name.startswith(LORA_B)}
    assert len(codec.packets) == 2 * 2 * 4
    assert all(load(packet.payload).keys() == wanted for packet in codec.packets)
    sizes = [packet.size_bytes for packet in codec.packets]
    assert sum(sizes) == sum(result.record.uplink_bytes + result.record.downlink_bytes for result in results)
    shared = sum(t.numel() for n, t in named_tensors(made.initial).items() if not n.startswith(LORA_B))
    assert all(4 * shared < size < 4 * shared + 2000 for size in sizes)
    whole = list(federation(tiny_bert, rule="fedavg").run())
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
    return all(same_bits(one.state.adapter, two.state.adapter) and line(one) == line(two) for one, two in pairs)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_run_killed_in_mid_round_goes_on_to_the_same_bits(rounds: int, tiny_bert: Path, tmp_path: Path) -> None:
    """The first device of the round has kept what it trained, and the round never counted: wild numbers there do nothing."""
    whole = list(federation(tiny_bert, tmp_path / "whole").run())
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
    wild = made.parts.memories.read(first, rounds + 1)
    assert wild is not None
    assert made.parts.memories.last_round(first, rounds + 1) == rounds
    made.parts.memories.write(first, rounds, Memory({name: tensor + 1e3 for name, tensor in wild.tensors.items()}))
    rest = list(federation(tiny_bert, tmp_path / "killed").run(last=last))
    assert same_rounds(rest, whole[rounds:])


def test_a_reply_that_the_server_refuses_has_moved_b_all_the_same(tiny_bert: Path) -> None:
    """The device is not told: its B is what it trained, and the score is of that. The shared parts go on without it."""
    made = federation(tiny_bert, devices_per_round=4, rounds=1)
    trained = {}

    def spoil(number: int, device: int, update: Update) -> Update:
        trained[device] = {name: pair.b for name, pair in update.factors.items()}
        head = {name: tensor + math.inf for name, tensor in update.groups[HEAD].items()}
        return update.with_groups({HEAD: head}) if device == 3 else update

    change_training(made, spoil)
    result = list(made.run())[-1]
    assert [device.device for device in result.devices if device.refused] == [3]
    for device, tensors in trained.items():
        memory = made.parts.memories.read(device, 2)
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
    _, first, second = made.run()
    assert [(device.device, device.uplink_bytes) for device in first.devices if device.refused] == [(3, 0)]
    assert made.parts.memories.last_round(3, 2) is None
    loss = first.record.value("test_loss")
    assert loss is not None
    assert math.isfinite(loss)
    assert second.record.refused == 0
    assert made.parts.memories.last_round(3, 3) == 2


def test_a_resumed_run_in_one_process_is_the_whole_one(tiny_bert: Path) -> None:
    whole = list(federation(tiny_bert).run())
    made = federation(tiny_bert)
    begun = list(islice(made.run(), 3))
    assert same_rounds(begun + list(made.run(last=begun[-1])), whole)
