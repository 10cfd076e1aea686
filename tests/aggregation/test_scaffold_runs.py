"""SCAFFOLD in whole federations with real training, against Algorithm 1 with autograd on the same model."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import Job, Memory, ServerState, Update, named_tensors, with_tensors
from fedfit.data.batches import training_batches
from fedfit.errors import TrainingStopped, UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.randomness import derive_seed
from fedfit.records import RoundResult
from fedfit.rounds.optimizers import rate_factor
from fedfit.rounds.round import choose_devices
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from fedfit.tracking.checkpoint import Checkpoints
from tests.aggregation.quadratics import Tensors, close, doubled, mean, own_variate, variates
from tests.aggregation.rewiring import connect, randomised
from tests.aggregation.watching import change_training, with_memories
from tests.builders import link_of, same_bits, tiny_experiment, tiny_recipe

PLAIN = {"optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_epochs": 2}
UNEVEN = [np.arange(0, 6), np.arange(6, 30), np.arange(30, 48), np.arange(48, 64)]
HOLDERS = len(UNEVEN)
VARIATES = "variates"
"""The group that c travels down in, and Δ_i up."""


def federation(folder: Path, devices_per_round: int = HOLDERS, **sections: Any) -> Experiment:
    """Four devices that hold data, and one that holds none. B is not zero, so that all parts are felt."""
    settings = {"rule": "scaffold", "devices": HOLDERS + 1, "devices_per_round": devices_per_round, "rounds": 5}
    settings |= sections.pop("federation", {})
    training = {**PLAIN, **sections.pop("training", {})}
    recipe = tiny_recipe(folder, federation=settings, training=training, **sections)
    return randomised(tiny_experiment(recipe, None, samples=64, parts=[*UNEVEN, np.arange(0)]))


PLAIN_FEDAVG = {"rule": "fedavg", "weighting": "uniform"}
"""The rule without control variates; devices weigh alike as well."""


def own_of(made: Experiment, state: ServerState, after_round: int) -> list[dict[str, Tensor]]:
    """c_i of the devices that hold data, from their memories on disk."""
    found = []
    for device in range(HOLDERS):
        memory = made.parts.memories.read(device, after_round + 1)
        found.append(own_variate(memory, state.numbers.get(f"counted {device}", 0), made.initial))
    return found


class SlowTwin:
    """Algorithm 1 on the tiny model with autograd alone; neither rule, trainer, hooks, codec nor memories."""

    def __init__(self, made: Experiment) -> None:
        self.made, self.start = made, made.initial
        self.x = doubled(named_tensors(self.start))
        self.c = {name: tensor * 0 for name, tensor in self.x.items()}
        self.own = [dict(self.c) for _ in range(HOLDERS)]

    def gradient(self, y: Tensors, rows: np.ndarray) -> dict[str, Tensor]:
        """Of the objective at y over ``rows``, clipped as a whole; weight decay, as SGD has it, after that."""
        made, settings = self.made.parts, self.made.recipe.training
        made.model.adapter.load(Job(with_tensors(self.start, {name: tensor.float() for name, tensor in y.items()})))
        parameters = made.model.adapter.named_parameters()
        states = made.trunk.batch(made.train, rows)
        entropy = functional.cross_entropy(made.model.tail(states), torch.from_numpy(made.train.classes[rows]))
        slopes = dict(zip(parameters, torch.autograd.grad(entropy, list(parameters.values())), strict=True))
        slopes = {n: slope.double() + settings.proximal * (y[n] - self.x[n]) for n, slope in slopes.items()}
        norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes.values()))
        shrink = min(1.0, settings.max_grad_norm / norm) if settings.max_grad_norm else 1.0
        return {n: slope * shrink + settings.weight_decay * y[n] for n, slope in slopes.items()}

    def round(self, number: int, devices: Iterable[int]) -> None:
        settings, seed, rounds = self.made.recipe.training, self.made.recipe.seed, self.made.recipe.federation.rounds
        ends, changes = [], []
        for i in devices:
            y, rate_sum, indices = dict(self.x), 0.0, self.made.parts.held[i]
            lengths, drawn = self.made.parts.train.lengths[indices], derive_seed(seed, "batches", number, i)
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
        return update.with_groups({"head": {n: t * math.nan for n, t in update.groups["head"].items()}}) if who else update

    change_training(made, spoil)
    for result in islice(made.run(), 1, 6):
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
        list(islice(federation(tiny_bert, federation=settings).run(), 4))[-1].state.adapter for settings in ({}, PLAIN_FEDAVG)
    )
    moved = distance(named_tensors(without), named_tensors(federation(tiny_bert).initial))
    assert distance(named_tensors(with_them), named_tensors(without)) > 0.02 * moved


def test_the_first_round_is_fedavgs_to_the_bit(tiny_bert: Path) -> None:
    made = federation(tiny_bert)
    plain = federation(tiny_bert, federation=PLAIN_FEDAVG)
    mine, other = (list(islice(each.run(), 2))[-1] for each in (made, plain))
    assert same_bits(mine.state.adapter, other.state.adapter)
    assert not same_bits(other.state.adapter, made.initial)
    for line, twin in zip(mine.devices, other.devices, strict=True):
        assert (line.train_loss, line.steps, line.samples) == (twin.train_loss, twin.steps, twin.samples)


def test_with_exact_variates_all_devices_take_the_same_step(tiny_bert: Path) -> None:
    """One step over all that a device holds makes c_i its gradient at x. At x again, each goes x - η·c, whatever it holds."""
    made = federation(tiny_bert, training={"local_epochs": 1, "batch_size": 64})
    _, first = islice(made.run(), 2)
    ends: list[Update] = []

    def keep(number: int, device: int, update: Update) -> Update:
        ends.append(update)
        return update

    change_training(made, keep)
    back = replace(first, state=replace(first.state, adapter=made.initial))
    next(made.run(last=back))
    step = {name: tensor - 0.3 * variates(first.state)[name] for name, tensor in named_tensors(made.initial).items()}
    moved = distance(step, named_tensors(made.initial))
    assert len(ends) == HOLDERS
    for end in ends:
        assert distance(named_tensors(end), step) < 1e-4 * moved
    apart = [distance(one, variates(first.state)) for one in own_of(made, first.state, 1)]
    assert min(apart) > 0.1 * distance(variates(first.state), {n: c * 0 for n, c in variates(first.state).items()})


def test_both_ways_carry_twice_the_adapter(tiny_bert: Path) -> None:
    """By the codec: c's numbers and their names beside FedAvg's packet, and no more than the planner is told."""
    made, plain = federation(tiny_bert), federation(tiny_bert, federation=PLAIN_FEDAVG)
    lines = [list(islice(each.run(), 3)) for each in (made, plain)]
    numbers = sum(tensor.numel() for tensor in named_tensors(made.initial).values())
    half = made.rule.server
    assert half.uplink_extra_bytes(made.initial) == (most := half.downlink_extra_bytes(made.initial))
    assert 4 * numbers < most < 4 * numbers + 250 * len(named_tensors(made.initial))
    traffic = [of(made.rule, PlainCodec(), made.initial, 5) for of in (uplink_traffic, downlink_traffic)]
    up, down = ((way.bits_fixed + made.initial.rank * way.bits_per_rank) / 8 for way in traffic)
    for mine, other in zip(*lines, strict=True):
        for line, twin in zip(mine.devices, other.devices, strict=True):
            assert 4 * numbers < line.uplink_bytes - twin.uplink_bytes <= most
            assert 4 * numbers < line.downlink_bytes - twin.downlink_bytes <= most
            assert up - 2000 < line.uplink_bytes <= up
            assert down - 2000 < line.downlink_bytes <= down
    assert plain.rule.server.uplink_extra_bytes(made.initial) == plain.rule.server.downlink_extra_bytes(made.initial) == 0


def test_without_a_head_there_are_variates_of_the_factors_alone(tiny_bert: Path) -> None:
    made = federation(tiny_bert, adapter={"head": "freeze"})
    result = list(islice(made.run(), 3))[-1]
    assert variates(result.state).keys() == named_tensors(made.initial).keys()
    assert not any(name.startswith("head.") for name in variates(result.state))
    assert result.record.refused == 0


SPOILS: dict[str, tuple[Callable[[Tensors], Mapping[str, Tensor]], str]] = {
    "none at all": (lambda variates: {}, r"the packet holds .*wanted .*variates"),
    "one less": (lambda variates: dict(list(variates.items())[1:]), r"missing \['variates\."),
    "one more": (lambda variates: {**variates, "stray": torch.zeros(2)}, r"unknown \['variates\.stray'\]"),
    "another shape": (lambda variates: {n: tensor[None] for n, tensor in variates.items()}, r"got \(1, .* wanted \("),
    "another type": (doubled, r"got .*float64, wanted .*float32"),
    "not finite": (lambda variates: {n: tensor * math.inf for n, tensor in variates.items()}, r"variates\..* is not finite"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_variates_that_do_not_fit_are_refused(kind: str, tiny_bert: Path) -> None:
    """Every Δ_i is spoiled on its way."""
    made, (spoil, reason) = federation(tiny_bert, federation={"max_failed_rounds": 1}), SPOILS[kind]
    sound = made.rule.device

    def send(job: Job, trained: Update, memory: Memory | None) -> tuple[Update, Memory | None]:
        update, kept = sound.send(job, trained, memory)
        return update.with_groups({VARIATES: spoil(update.groups[VARIATES])}), kept

    made.rule = replace(made.rule, device=replace(sound, send=send))
    connect(made, link_of(made))
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match=reason):
        seen.extend(made.run())
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
    whole = list(federation(tiny_bert, 2).run())
    killed = with_memories(federation(tiny_bert, 2), tmp_path / "devices")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for result in islice(killed.run(), 4 + beyond):
        if result.record.round <= 3:
            checkpoints.save(result)
    last = Checkpoints(tmp_path / "checkpoints").latest()
    assert last is not None
    assert same_state(last.state, whole[3].state)
    resumed = with_memories(federation(tiny_bert, 2), tmp_path / "devices")
    rest = list(resumed.run(last=last))
    assert len(rest) == 2
    for mine, other in zip(rest, whole[4:], strict=True):
        assert same_state(mine.state, other.state)
        assert lines_of(mine) == lines_of(other)
        assert (mine.record.metrics, mine.record.refused) == (other.record.metrics, 0)


def test_devices_that_lost_their_memory_are_refused(tiny_bert: Path) -> None:
    made = federation(tiny_bert, federation={"max_failed_rounds": 1})
    _, first = islice(made.run(), 2)
    lost = with_memories(made, None)
    with pytest.raises(TrainingStopped, match="1 replies of this device have counted, and it remembers none"):
        list(lost.run(last=first))
