import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import TrainingStopped
from fedfit.records import AdapterSize, Factors, Order, Packet, Reply, RoundResult, Score, Task, Update
from fedfit.rounds.federation import Federation
from fedfit.rounds.link import Link
from fedfit.rounds.round import initial_result, run_round
from fedfit.rounds.server import choose_devices
from fedfit.simulation.in_process import InProcessLink
from fedfit.simulation.run import Simulation, run
from tests.builders import link_of, random_update, same_bits, tiny_recipe, tiny_simulation

CODEC = SafetensorsCodec()
STATE = random_update(9)
SAMPLES = [10, 20, 0, 30]


def test_devices_are_drawn_without_replacement_and_ascending() -> None:
    eligible = [3, 5, 8, 13, 21, 34]
    for number in range(30):
        chosen = choose_devices(eligible, 4, seed=1, round_number=number)
        assert len(set(chosen)) == 4
        assert set(chosen) <= set(eligible)
        assert chosen == sorted(chosen)
        assert chosen == choose_devices(eligible, 4, seed=1, round_number=number)
    assert choose_devices(eligible, 6, 1, 1) == eligible


def test_every_device_has_its_turn_and_seeds_and_rounds_differ() -> None:
    drawn = [choose_devices(range(20), 5, seed, number) for seed in (0, 1) for number in range(20)]
    assert len({tuple(devices) for devices in drawn}) > 35
    # A device is left out of 40 draws of a quarter with probability 0.75^40 = 1e-5.
    assert {device for devices in drawn for device in devices} == set(range(20))


@dataclass
class Echo:
    """A link whose devices add their number to every tensor; ``reply`` may do otherwise."""

    change: Callable[[Order, Reply], Reply] = lambda order, reply: reply
    order: Callable[[list[Order]], Iterable[Order]] = iter

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        for order in self.order(list(orders)):
            received = CODEC.decode(order.packet)
            sent = trained(received, order.device)
            yield self.change(order, Reply(order.round, order.device, CODEC.encode(sent), None, 0.5))


def trained(update: Update, device: int) -> Update:
    factors = {name: Factors(pair.a + device, pair.b + device, pair.scale) for name, pair in update.factors.items()}
    head = {name: tensor + device for name, tensor in update.head.items()}
    return Update(factors, head, float(SAMPLES[device]), {"steps": device + 1, "train_loss": device / 4})


def federation(link: Link, devices_per_round: int = 3) -> Federation:
    def score(adapter: Update, after_round: int) -> Score:
        return Score(0.5, 0.25, float(adapter.head["classifier.bias"].sum()))

    return Federation(FedAvg(), CODEC, link, score, SAMPLES, devices_per_round, 0, lambda rank: AdapterSize(rank, 2.0), [2] * 9)


def expected_state(*devices: int) -> Update:
    return FedAvg().apply(STATE, [trained(STATE, device) for device in devices])


def test_round_zero_sends_nothing_and_scores_the_untrained_model() -> None:
    result = initial_result(federation(Echo()), STATE)
    assert result.state is STATE
    assert result.devices == ()
    record = result.record
    assert (record.round, record.uplink_bytes, record.downlink_bytes, record.train_loss, record.devices) == (0, 0, 0, None, 0)
    assert record.test_loss == pytest.approx(float(STATE.head["classifier.bias"].sum()))


def test_a_round_averages_what_came_and_records_it() -> None:
    result = run_round(federation(Echo()), STATE, 1)
    assert same_bits(result.state, expected_state(0, 1, 3))  # device 2 has no sample
    sizes = {device: len(CODEC.encode(trained(STATE, device)).payload) for device in (0, 1, 3)}
    down = len(CODEC.encode(STATE).payload)
    assert [(d.device, d.samples, d.steps, d.train_loss) for d in result.devices] == [
        (0, 10, 1, 0.0), (1, 20, 2, 0.25), (3, 30, 4, 0.75)
    ]  # fmt: skip
    assert [(d.uplink_bytes, d.downlink_bytes, d.seconds, d.refused) for d in result.devices] == [
        (sizes[device], down, 0.5, None) for device in (0, 1, 3)
    ]
    record = result.record
    assert (record.uplink_bytes, record.downlink_bytes) == (sum(sizes.values()), 3 * down)
    assert (record.devices, record.refused) == (3, 0)
    assert record.train_loss == pytest.approx((10 * 0.0 + 20 * 0.25 + 30 * 0.75) / 60)
    assert record.test_loss == pytest.approx(float(result.state.head["classifier.bias"].sum()))


def broken_reply(kind: str, order: Order, reply: Reply) -> Reply:
    sent = trained(CODEC.decode(order.packet), order.device)
    name, pair = next(iter(sent.factors.items()))
    nan = pair.a.clone()
    nan[0, 0] = math.nan

    def packet(update: Update) -> Reply:
        return replace(reply, packet=CODEC.encode(update))

    def with_pair(factors: Factors) -> Reply:
        return packet(replace(sent, factors={**sent.factors, name: factors}))

    return {
        "garbage": lambda: replace(reply, packet=Packet(b"garbage")),
        "empty": lambda: replace(reply, packet=Packet(b"")),
        "cut": lambda: replace(reply, packet=Packet(order.packet.payload[:-5])),
        "a factor less": lambda: packet(replace(sent, factors={name: pair})),
        "a head less": lambda: packet(replace(sent, head={})),
        "other shape": lambda: with_pair(replace(pair, a=pair.a[:, :-1])),
        "other type": lambda: with_pair(replace(pair, a=pair.a.to(torch.float8_e4m3fn))),
        "other scale": lambda: with_pair(replace(pair, scale=1.0)),
        "NaN in a factor": lambda: with_pair(replace(pair, a=nan)),
        "infinity in the head": lambda: packet(
            replace(sent, head={**sent.head, "classifier.bias": torch.full((3,), math.inf)})
        ),
        "NaN as weight": lambda: packet(replace(sent, weight=math.nan)),
        "negative weight": lambda: packet(replace(sent, weight=-3.0)),
        "vast weight": lambda: packet(replace(sent, weight=1e308)),
        "NaN as loss": lambda: packet(replace(sent, metrics={"steps": 1, "train_loss": math.nan})),
        "infinite steps": lambda: packet(replace(sent, metrics={"steps": math.inf})),
        "nothing": lambda: replace(reply, packet=None),
        "a refusal": lambda: replace(reply, packet=None, refusal="out of battery"),
    }[kind]()


KINDS = [
    "garbage", "empty", "cut", "a factor less", "a head less", "other shape", "other type", "other scale", "NaN in a factor",
    "infinity in the head", "NaN as weight", "negative weight", "vast weight", "NaN as loss", "infinite steps", "nothing",
    "a refusal",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_is_no_good_is_refused_and_recorded_and_the_round_goes_on(kind: str) -> None:
    link = Echo(lambda order, reply: broken_reply(kind, order, reply) if order.device == 1 else reply)
    result = run_round(federation(link), STATE, 1)
    assert same_bits(result.state, expected_state(0, 3))
    assert [device.refused is not None for device in result.devices] == [False, True, False]
    refused = result.devices[1]
    assert refused.refused
    assert (refused.steps, refused.train_loss) == (0, None)
    assert refused.downlink_bytes > 0
    assert (refused.uplink_bytes > 0) == (kind not in ("nothing", "a refusal", "empty"))
    assert (result.record.devices, result.record.refused) == (3, 1)
    assert result.record.train_loss == pytest.approx((10 * 0.0 + 30 * 0.75) / 40)
    assert kind != "a refusal" or refused.refused == "out of battery"


def test_when_all_are_refused_the_state_stays() -> None:
    result = run_round(federation(Echo(lambda order, reply: broken_reply("garbage", order, reply))), STATE, 1)
    assert result.state is STATE
    assert (result.record.refused, result.record.train_loss) == (3, None)


def test_replies_may_come_in_any_order() -> None:
    straight = run_round(federation(Echo()), STATE, 1)
    reverse = run_round(federation(Echo(order=lambda orders: orders[::-1])), STATE, 1)
    assert same_bits(straight.state, reverse.state)
    assert [device.device for device in reverse.devices] == [3, 1, 0]
    assert sorted(reverse.devices, key=lambda d: d.device) == list(straight.devices)


def test_orders_are_drawn_one_at_a_time() -> None:
    drawn = 0

    class Lazy:
        def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
            nonlocal drawn
            for count, order in enumerate(orders, start=1):
                drawn = count
                yield Reply(order.round, order.device, None, "not today", 0.0)

    class Watching(FedAvg):
        def apply(self, state: Update, updates: Iterable[Update]) -> Update:
            assert drawn == 0
            return super().apply(state, updates)

    result = run_round(replace(federation(Lazy()), rule=Watching()), STATE, 1)
    assert drawn == 3
    assert all(device.refused == "not today" for device in result.devices)


# With real training


def results(simulation: Simulation, link: Callable[[InProcessLink], Link] | None = None) -> list[RoundResult]:
    settings = simulation.recipe.federation
    plain = link_of(simulation)
    federation = Federation(
        simulation.rule, simulation.codec, link(plain) if link else plain, simulation.score,
        [len(part) for part in simulation.parts], settings.devices_per_round, simulation.recipe.seed,
        simulation.recipe.adapter.size, [simulation.recipe.adapter.rank] * settings.devices,
    )  # fmt: skip
    rounds = [initial_result(federation, simulation.initial)]
    for number in range(1, settings.rounds + 1):
        rounds.append(run_round(federation, rounds[-1].state, number))
    return rounds


class Reversed:
    def __init__(self, link: Link) -> None:
        self._link = link

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        return self._link.exchange(reversed(list(orders)))


@pytest.mark.parametrize("noise", [{}, {"training": {"dropout": True}, "adapter": {"dropout": 0.3}}], ids=["plain", "dropout"])
def test_the_order_of_the_devices_changes_no_bit_of_the_global_model(noise: dict[str, Any], tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 2}, **noise)
    straight, reverse = results(tiny_simulation(recipe, None)), results(tiny_simulation(recipe, None), Reversed)
    assert [device.device for device in reverse[1].devices] == [2, 1, 0]
    for mine, other in zip(straight, reverse, strict=True):
        assert same_bits(mine.state, other.state)
        assert replace(mine.record, server_seconds=None, seconds=0, train_loss=0) == replace(
            other.record, server_seconds=None, seconds=0, train_loss=0
        )
    head = straight[-1].state.head["classifier.weight"]
    assert not torch.equal(head, straight[0].state.head["classifier.weight"])


def test_one_device_alone_is_the_global_model(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"devices": 1, "devices_per_round": 1, "rounds": 1})
    (_, after) = results(tiny_simulation(recipe, None))
    fresh = tiny_simulation(recipe, None)
    assert same_bits(after.state, fresh.client.train(Task(fresh.initial), fresh.train, fresh.parts[0], 1, 0))


def poison(simulation: Simulation, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of one device give NaN, so its loss is NaN from the first step."""
    plain, bad = simulation.trunk.batch, set(simulation.parts[device].tolist())

    def batch(samples: Any, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, lengths = plain(samples, indices)
        spoilt = samples is simulation.train and bool(bad & set(indices.tolist()))
        return (hidden * math.nan if spoilt else hidden), lengths

    monkeypatch.setattr(simulation.trunk, "batch", batch)


def test_a_nan_loss_is_refused_and_the_others_go_on(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 2})
    simulation = tiny_simulation(recipe, None)
    poison(simulation, 1, monkeypatch)
    rounds = list(run(simulation))
    for result in rounds[1:]:
        assert [device.refused is not None for device in result.devices] == [False, True, False]
        assert "nan" in str(result.devices[1].refused)
        assert result.record.refused == 1
        assert all(bool(torch.isfinite(tensor).all()) for tensor in named_tensors(result.state).values())
    clean = tiny_simulation(recipe, None)
    sound = [clean.client.train(Task(clean.initial), clean.train, clean.parts[device], 1, device) for device in (0, 2)]
    assert same_bits(rounds[1].state, FedAvg().apply(clean.initial, sound))


def test_rounds_without_one_usable_update_end_the_run(tiny_bert: Path) -> None:
    recipe = tiny_recipe(
        tiny_bert,
        federation={"rounds": 5, "max_failed_rounds": 2},
        training={"learning_rate": 1e30, "optimizer": "sgd", "local_epochs": 3, "max_grad_norm": 0.0},
    )
    simulation = tiny_simulation(recipe, None)
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match=r"last 2 rounds.*training\.learning_rate"):
        seen.extend(run(simulation))  # keeps what came before the error
    assert [(result.record.round, result.record.refused) for result in seen] == [(0, 0), (1, 3), (2, 3)]
    assert all(same_bits(result.state, simulation.initial) for result in seen)
    assert seen[2].record.test_loss == seen[0].record.test_loss


def test_failed_rounds_count_in_a_row(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device a round, so a round fails when it is the spoilt device's: twice in a row is too often, with others
    between it is not, and a resumed run has the failures before it counted."""
    recipe = tiny_recipe(tiny_bert, seed=3, federation={"rounds": 5, "max_failed_rounds": 2, "devices_per_round": 1})
    turns = [choose_devices(range(3), 1, recipe.seed, number)[0] for number in range(1, 6)]
    assert turns == [1, 2, 2, 1, 2]

    def rounds_and_end(bad: int, failed: int = 0) -> tuple[int, str]:
        simulation = tiny_simulation(recipe, None)
        poison(simulation, bad, monkeypatch)
        seen: list[RoundResult] = []
        try:
            seen.extend(run(simulation, failed=failed))
        except TrainingStopped:
            return seen[-1].record.round, "stopped"
        return seen[-1].record.round, "finished"

    assert rounds_and_end(bad=2) == (3, "stopped")
    assert rounds_and_end(bad=1) == (5, "finished")
    assert rounds_and_end(bad=1, failed=1) == (1, "stopped")
    assert rounds_and_end(bad=2, failed=1) == (3, "stopped")  # round 1 went well in between
