"""SCAFFOLD in whole federations with real training, against Algorithm 1 with autograd on the same model."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedfit.aggregation.base import named_tensors, with_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.scaffold import Scaffold
from fedfit.data.batches import training_batches
from fedfit.errors import TrainingStopped, UpdateRefused
from fedfit.randomness import derive_seed
from fedfit.records import PARTS, Memory, RoundResult, ServerState, Task, Update
from fedfit.rounds.client import Client, rate_factor
from fedfit.rounds.server import choose_devices
from fedfit.simulation.run import Simulation, run
from fedfit.simulation.traffic import uplink_traffic
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.aggregation.quadratics import (
    Tensors,
    close,
    doubled,
    mean,
    own_variate,
    variates,
)
from tests.builders import randomise, same_bits, tiny_recipe, tiny_simulation

PLAIN = {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_epochs": 2}
UNEVEN = [np.arange(0, 6), np.arange(6, 30), np.arange(30, 48), np.arange(48, 64)]
HOLDERS = len(UNEVEN)


class Watched(Client):
    """The real client; ``change`` has its way with what a device trained."""

    change: Callable[[int, int, Update], Update] = staticmethod(lambda round_number, device, update: update)

    def train(self, task: Task, samples: Any, indices: Any, round_number: int, device: int, parts: Any = PARTS) -> Update:
        return self.change(round_number, device, super().train(task, samples, indices, round_number, device, parts))


def federation(folder: Path, devices_per_round: int = HOLDERS, **sections: Any) -> Simulation:
    """Four devices that hold data, and one that holds none. B is not zero, so that all parts are felt."""
    settings = {"devices": HOLDERS + 1, "devices_per_round": devices_per_round, "rounds": 5, **sections.pop("federation", {})}
    training = {**PLAIN, "scaffold": True, **sections.pop("training", {})}
    recipe = tiny_recipe(folder, federation=settings, training=training, **sections)
    made = tiny_simulation(recipe, None, samples=64, parts=[*UNEVEN, np.arange(0)])
    randomise(made.model, seed=4)
    made.initial = made.model.adapter.snapshot()
    made.client = Watched(made.model, made.trunk, recipe.training, recipe.seed, recipe.federation.rounds)
    return made


def own_of(made: Simulation, state: ServerState, after_round: int) -> list[dict[str, Tensor]]:
    """c_i of the devices that hold data, from their memories on disk."""
    found = []
    for device in range(HOLDERS):
        memory = made.memories.read(device, after_round + 1)
        found.append(own_variate(memory, state.numbers.get(f"counted {device}", 0), made.initial))
    return found


class SlowTwin:
    """Algorithm 1 on the tiny model with autograd alone; neither rule, client, guide, codec nor memories."""

    def __init__(self, made: Simulation) -> None:
        self.made, self.start = made, made.initial
        self.x = doubled(named_tensors(self.start))
        self.c = {name: tensor * 0 for name, tensor in self.x.items()}
        self.own = [dict(self.c) for _ in range(HOLDERS)]

    def gradient(self, y: Tensors, rows: np.ndarray) -> dict[str, Tensor]:
        """Of the objective at y over ``rows``, clipped as a whole; weight decay, as SGD has it, after that."""
        made, settings = self.made, self.made.recipe.training
        made.model.adapter.load(with_tensors(self.start, {name: tensor.float() for name, tensor in y.items()}))
        parameters = made.model.adapter.named_parameters()
        hidden, lengths = made.trunk.batch(made.train, rows)
        entropy = functional.cross_entropy(made.model.tail(hidden, lengths), torch.from_numpy(made.train.labels[rows]))
        slopes = dict(zip(parameters, torch.autograd.grad(entropy, list(parameters.values())), strict=True))
        slopes = {n: slope.double() + settings.proximal * (y[n] - self.x[n]) for n, slope in slopes.items()}
        norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes.values()))
        shrink = min(1.0, settings.max_grad_norm / norm) if settings.max_grad_norm else 1.0
        return {n: slope * shrink + settings.weight_decay * y[n] for n, slope in slopes.items()}

    def round(self, number: int, devices: Iterable[int]) -> None:
        settings, seed, rounds = self.made.recipe.training, self.made.recipe.seed, self.made.recipe.federation.rounds
        ends, changes = [], []
        for i in devices:
            y, rate_sum, indices = dict(self.x), 0.0, self.made.parts[i]
            lengths, drawn = self.made.train.lengths[indices], derive_seed(seed, "batches", number, i)
            batches = training_batches(lengths, settings.batch_size, settings.local_epochs, settings.local_steps, drawn)
            for step, batch in enumerate(batches):
                rate = settings.learning_rate * rate_factor((number - 1 + step / len(batches)) / rounds, settings)
                g = self.gradient(y, indices[batch])
                y = {n: y[n] - rate * (g[n] - self.own[i][n] + self.c[n]) for n in y}
                rate_sum += rate
            fresh = {n: self.own[i][n] - self.c[n] + (self.x[n] - y[n]) / rate_sum for n in y}
            ends.append(y)
            changes.append({n: fresh[n] - self.own[i][n] for n in y})
            self.own[i] = fresh
        self.x, moved = mean(ends), mean(changes)
        self.c = {n: c + len(ends) / HOLDERS * moved[n] for n, c in self.c.items()}


def distance(left: Tensors, right: Tensors) -> float:
    return math.sqrt(sum(float((tensor.double() - right[name].double()).square().sum()) for name, tensor in left.items()))


@pytest.mark.parametrize(
    "training",
    [{}, {"schedule": "linear"}, {"weight_decay": 0.1}, {"max_grad_norm": 0.5}, {"proximal": 1.0}, {"local_steps": 3}],
    ids=str,
)
def test_a_whole_run_is_algorithm_1(training: dict[str, Any], tiny_bert: Path) -> None:
    """Two devices of four in each of five rounds. In round 2 one of them has its reply refused by the server, in round 3 one
    refuses by itself: neither took part, and c stays the mean of all c_i. The fifth device holds no data, and N is four."""
    made, twin = federation(tiny_bert, 2, training=training), SlowTwin(federation(tiny_bert, 2, training=training))
    chosen = {number: choose_devices(range(HOLDERS), 2, made.recipe.seed, number) for number in range(1, 6)}
    bad = {(2, chosen[2][0]): "server", (3, chosen[3][1]): "device"}

    def spoil(number: int, device: int, update: Update) -> Update:
        who = bad.get((number, device))
        if who == "device":
            raise UpdateRefused("not today")
        return replace(update, head={n: t * math.nan for n, t in update.head.items()}) if who == "server" else update

    made.client.change = spoil  # type: ignore[attr-defined]
    for result in islice(run(made), 1, 6):
        number, state = result.record.round, result.state
        good = [device for device in chosen[number] if (number, device) not in bad]
        assert [device.refused is None for device in result.devices] == [device in good for device in chosen[number]]
        twin.round(number, good)
        moved = distance(twin.x, named_tensors(made.initial))
        assert distance(named_tensors(state.adapter), twin.x) < 1e-4 * moved
        size = distance(twin.c, {name: c * 0 for name, c in twin.c.items()})
        assert distance(variates(state), twin.c) < 1e-4 * size
        own = own_of(made, state, number)
        for mine, other in zip(own, twin.own, strict=True):
            assert distance(mine, other) < 2e-4 * max(size, distance(other, {name: c * 0 for name, c in other.items()}))
        close(variates(state), mean(own), 1e-13)
    assert {device for _, device in bad} & {*chosen[4], *chosen[5]}, "one that was refused takes part again"


def test_it_is_felt(tiny_bert: Path) -> None:
    """The same rounds without control variates end elsewhere: the twin's tolerance is far below what they do."""
    with_them, without = (
        list(islice(run(federation(tiny_bert, training={"scaffold": on}, federation={"weighting": "uniform"})), 4))[-1]
        for on in (True, False)
    )
    moved = distance(named_tensors(without.state), named_tensors(federation(tiny_bert).initial))
    assert distance(named_tensors(with_them.state.adapter), named_tensors(without.state)) > 0.02 * moved


def test_the_first_round_is_fedavgs_to_the_bit(tiny_bert: Path) -> None:
    made = federation(tiny_bert)
    plain = federation(tiny_bert, training={"scaffold": False}, federation={"weighting": "uniform"})
    assert type(plain.rule) is FedAvg
    mine, other = (list(islice(run(each), 2))[-1] for each in (made, plain))
    assert same_bits(mine.state.adapter, other.state)
    assert not same_bits(other.state, made.initial)
    for line, twin in zip(mine.devices, other.devices, strict=True):
        assert (line.train_loss, line.steps, line.samples) == (twin.train_loss, twin.steps, twin.samples)


def test_with_exact_variates_all_devices_take_the_same_step(tiny_bert: Path) -> None:
    """One step over all that a device holds makes c_i its gradient at x. At x again, each goes x - η·c, whatever it holds."""
    made = federation(tiny_bert, training={"local_epochs": 1, "batch_size": 64})
    _, first = islice(run(made), 2)
    ends: list[Update] = []

    def keep(number: int, device: int, update: Update) -> Update:
        ends.append(update)
        return update

    made.client.change = keep  # type: ignore[attr-defined]
    back = replace(first, state=replace(first.state, adapter=made.initial))
    next(run(made, last=back))
    step = {name: tensor - 0.3 * variates(first.state)[name] for name, tensor in named_tensors(made.initial).items()}
    moved = distance(step, named_tensors(made.initial))
    assert len(ends) == HOLDERS
    for end in ends:
        assert distance(named_tensors(end), step) < 1e-4 * moved
    apart = [distance(one, variates(first.state)) for one in own_of(made, first.state, 1)]
    assert min(apart) > 0.1 * distance(variates(first.state), {n: c * 0 for n, c in variates(first.state).items()})


def test_both_ways_carry_twice_the_adapter(tiny_bert: Path) -> None:
    """By the codec: c's numbers and their names beside FedAvg's packet, and no more than the planner is told."""
    made, plain = federation(tiny_bert), federation(tiny_bert, training={"scaffold": False})
    lines = [list(islice(run(each), 3)) for each in (made, plain)]
    numbers = sum(tensor.numel() for tensor in named_tensors(made.initial).values())
    most = made.rule.extra_uplink_bytes(made.initial)
    assert made.rule.extra_downlink_bytes(made.initial) == most
    assert 4 * numbers < most < 4 * numbers + 250 * len(named_tensors(made.initial))
    traffic = uplink_traffic(made.rule, made.codec, made.initial, 3)
    planned = (traffic.bits_fixed + made.recipe.adapter.rank * traffic.bits_per_rank) / 8
    for mine, other in zip(*lines, strict=True):
        for line, twin in zip(mine.devices, other.devices, strict=True):
            assert 4 * numbers < line.uplink_bytes - twin.uplink_bytes <= most
            assert 4 * numbers < line.downlink_bytes - twin.downlink_bytes <= most
            assert planned - 2000 < max(line.uplink_bytes, line.downlink_bytes) <= planned
    assert plain.rule.extra_uplink_bytes(made.initial) == plain.rule.extra_downlink_bytes(made.initial) == 0


def test_without_a_head_there_are_variates_of_the_factors_alone(tiny_bert: Path) -> None:
    made = federation(tiny_bert, adapter={"head": "freeze"})
    result = list(islice(run(made), 3))[-1]
    assert variates(result.state).keys() == named_tensors(made.initial).keys()
    assert not any(name.startswith("head ") for name in variates(result.state))
    assert result.record.refused == 0


SPOILS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "none at all": lambda extra: {},
    "one less": lambda extra: dict(list(extra.items())[1:]),
    "one more": lambda extra: {**extra, "c stray": torch.zeros(2)},
    "another shape": lambda extra: {name: tensor[None] for name, tensor in extra.items()},
    "another type": lambda extra: doubled(extra),
    "not finite": lambda extra: {name: tensor * math.inf for name, tensor in extra.items()},
}


class Spoiling(Scaffold):
    """Devices of the second round whose Δ_i is spoiled on its way."""

    def __init__(self, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        super().__init__(HOLDERS)
        self.spoil = spoil

    def send(self, task: Task, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        update, kept = super().send(task, trained, memory)
        return replace(update, extra=self.spoil(dict(update.extra))), kept


@pytest.mark.parametrize("kind", SPOILS)
def test_variates_that_do_not_fit_are_refused(kind: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, federation={"max_failed_rounds": 1})
    made.rule = Spoiling(SPOILS[kind])
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match="is not finite" if kind == "not finite" else "extra tensors: got"):
        seen.extend(run(made))
    assert [result.record.refused for result in seen] == [0, HOLDERS]
    assert seen[1].state is seen[0].state


def same_state(left: ServerState, right: ServerState) -> bool:
    tensors = left.tensors.keys() == right.tensors.keys() and all(
        torch.equal(t, right.tensors[n]) for n, t in left.tensors.items()
    )
    return tensors and left.numbers == right.numbers and same_bits(left.adapter, right.adapter)


def lines_of(result: RoundResult) -> list[Any]:
    return [replace(device, seconds=0) for device in result.devices]


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_killed_run_goes_on_to_the_same_bits(beyond: int, tiny_bert: Path, tmp_path: Path) -> None:
    """Killed after round 3, or in round 4 when devices have remembered of it what never counted."""
    whole = list(run(federation(tiny_bert, 2)))
    killed = federation(tiny_bert, 2)
    killed.memories = DeviceMemories(tmp_path / "devices")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for result in islice(run(killed), 4 + beyond):
        if result.record.round <= 3:
            checkpoints.save(result)
    last = Checkpoints(tmp_path / "checkpoints").latest()
    assert last is not None
    assert same_state(last.state, whole[3].state)
    resumed = federation(tiny_bert, 2)
    resumed.memories = DeviceMemories(tmp_path / "devices")
    rest = list(run(resumed, last=last))
    assert len(rest) == 2
    for mine, other in zip(rest, whole[4:], strict=True):
        assert same_state(mine.state, other.state)
        assert lines_of(mine) == lines_of(other)
        assert (mine.record.test_loss, mine.record.refused) == (other.record.test_loss, 0)


def test_devices_that_lost_their_memory_are_refused(tiny_bert: Path) -> None:
    made = federation(tiny_bert, federation={"max_failed_rounds": 1})
    _, first = islice(run(made), 2)
    made.memories = DeviceMemories()
    with pytest.raises(TrainingStopped, match="1 replies of this device have counted, and it remembers none"):
        list(run(made, last=first))
