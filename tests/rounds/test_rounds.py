import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfit.core.messages import Order, Packet, Reply
from fedfit.core.update import Factors, Job, ServerState, Update, named_tensors
from fedfit.errors import TrainingStopped
from fedfit.experiment.build import Experiment
from fedfit.models.batch import Batch
from fedfit.records import RoundResult
from fedfit.rounds.link import Link
from fedfit.rounds.loop import initial_result, run_round
from fedfit.rounds.round import choose_devices
from tests.builders import packed, rule_of, same_bits, tiny_experiment, tiny_recipe
from tests.rounds.links import ADAPTER, CODEC, STATE, Echo, expected_adapter, federation, trained


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


def test_a_device_is_drawn_from_the_round_in_which_it_joins() -> None:
    """Device 3 joins in round 3, and device 1 in round 2; device 2, which holds nothing, never counts."""
    late = replace(federation(Echo(), devices_per_round=3), joins=[1, 2, 1, 3])
    drawn = {number: [line.device for line in run_round(late, STATE, number).devices] for number in range(1, 5)}
    assert drawn == {1: [0], 2: [0, 1], 3: [0, 1, 3], 4: [0, 1, 3]}
    one = replace(federation(Echo(), devices_per_round=1), joins=[1, 1, 1, 5])
    assert all(run_round(one, STATE, number).devices[0].device != 3 for number in range(1, 5))
    assert 3 in {run_round(one, STATE, number).devices[0].device for number in range(5, 30)}


def test_round_zero_sends_nothing_and_scores_the_untrained_model() -> None:
    result = initial_result(federation(Echo()), ADAPTER)
    assert result.state.adapter is ADAPTER
    assert result.devices == ()
    record = result.record
    assert (record.round, record.uplink_bytes, record.downlink_bytes, record.train_loss, record.devices) == (0, 0, 0, None, 0)
    assert record.value("test_loss") == pytest.approx(float(ADAPTER.groups["head"]["classifier.bias"].sum()))


def test_a_round_averages_what_came_and_records_it() -> None:
    result = run_round(federation(Echo()), STATE, 1)
    assert same_bits(result.state.adapter, expected_adapter(0, 1, 3))  # device 2 has no sample
    sizes = {device: packed(trained(ADAPTER, device)).size_bytes for device in (0, 1, 3)}
    down = packed(ADAPTER).size_bytes
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
    bias = result.state.adapter.groups["head"]["classifier.bias"]
    assert record.value("test_loss") == pytest.approx(float(bias.sum()))


def broken_reply(kind: str, order: Order, reply: Reply) -> list[Reply]:
    sent = trained(CODEC.decode(order.packet), order.device)
    name, pair = next(iter(sent.factors.items()))
    nan = pair.a.clone()
    nan[0, 0] = math.nan

    def packet(update: Update) -> Reply:
        return replace(reply, packet=packed(update))

    def with_pair(factors: Factors) -> Reply:
        return packet(sent.with_factors({**sent.factors, name: factors}))

    broken: dict[str, Callable[[], Reply]] = {
        "garbage": lambda: replace(reply, packet=Packet(b"garbage")),
        "empty": lambda: replace(reply, packet=Packet(b"")),
        "cut": lambda: replace(reply, packet=Packet(order.packet.payload[:-5])),
        "a factor less": lambda: packet(sent.with_factors({name: pair})),
        "a head less": lambda: packet(sent.without({"head"})),
        "other shape": lambda: with_pair(replace(pair, a=pair.a[:, :-1])),
        "other type": lambda: with_pair(replace(pair, a=pair.a.to(torch.float8_e4m3fn))),
        "other scale": lambda: with_pair(replace(pair, scale=1.0)),
        "NaN in a factor": lambda: with_pair(replace(pair, a=nan)),
        "infinity in the head": lambda: packet(
            sent.with_groups({"head": {**sent.groups["head"], "classifier.bias": torch.full((3,), math.inf)}})
        ),
        "NaN as weight": lambda: packet(replace(sent, weight=math.nan)),
        "negative weight": lambda: packet(replace(sent, weight=-3.0)),
        "vast weight": lambda: packet(replace(sent, weight=1e308)),
        "NaN as loss": lambda: packet(replace(sent, facts={"steps": 1, "train_loss": math.nan})),
        "infinite steps": lambda: packet(replace(sent, facts={"steps": math.inf})),
        "nothing": lambda: replace(reply, packet=None),
        "a refusal": lambda: replace(reply, packet=None, refusal="out of battery"),
    }
    return [broken[kind]()]


KINDS = [
    "garbage", "empty", "cut", "a factor less", "a head less", "other shape", "other type", "other scale", "NaN in a factor",
    "infinity in the head", "NaN as weight", "negative weight", "vast weight", "NaN as loss", "infinite steps", "nothing",
    "a refusal",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_is_no_good_is_refused_and_recorded_and_the_round_goes_on(kind: str) -> None:
    link = Echo(lambda order, reply: broken_reply(kind, order, reply) if order.device == 1 else [reply])
    result = run_round(federation(link), STATE, 1)
    assert same_bits(result.state.adapter, expected_adapter(0, 3))
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
    reverse = run_round(federation(Echo(arrange=lambda orders: orders[::-1])), STATE, 1)
    assert same_bits(straight.state.adapter, reverse.state.adapter)
    assert [device.device for device in reverse.devices] == [3, 1, 0]
    assert sorted(reverse.devices, key=lambda d: d.device) == list(straight.devices)


def test_orders_are_drawn_one_at_a_time() -> None:
    drawn = 0

    class Lazy:
        def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
            nonlocal drawn
            for count, order in enumerate(orders, start=1):
                drawn = count
                yield Reply(order.round, order.device, None, "not today", 0.0)

    fedavg = rule_of("fedavg")

    def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
        assert drawn == 0
        return fedavg.server.apply(state, updates)

    watching = replace(fedavg, server=replace(fedavg.server, apply=apply))
    result = run_round(replace(federation(Lazy()), rule=watching), STATE, 1)
    assert drawn == 3
    assert all(device.refused == "not today" for device in result.devices)


# With real training


def results(made: Experiment, link: Callable[[Link], Link] | None = None) -> list[RoundResult]:
    if link is not None:
        made.federation = replace(made.federation, link=link(made.federation.link))
    return list(made.run())


class Reversed:
    def __init__(self, link: Link) -> None:
        self._link = link

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        return self._link.exchange(reversed(list(orders)), deadline_s)


@pytest.mark.parametrize("noise", [{}, {"training": {"dropout": True}, "adapter": {"dropout": 0.3}}], ids=["plain", "dropout"])
def test_the_order_of_the_devices_changes_no_bit_of_the_global_model(noise: dict[str, Any], tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 2}, **noise)
    straight, reverse = results(tiny_experiment(recipe, None)), results(tiny_experiment(recipe, None), Reversed)
    assert [device.device for device in reverse[1].devices] == [2, 1, 0]
    for mine, other in zip(straight, reverse, strict=True):
        assert same_bits(mine.state.adapter, other.state.adapter)
        assert replace(mine.record, server_seconds=None, seconds=0, train_loss=0) == replace(
            other.record, server_seconds=None, seconds=0, train_loss=0
        )
    first, last = (result.state.adapter.groups["head"]["classifier.weight"] for result in (straight[0], straight[-1]))
    assert not torch.equal(first, last)


def test_one_device_alone_is_the_global_model(tiny_bert: Path) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"devices": 1, "devices_per_round": 1, "rounds": 1})
    (_, after) = results(tiny_experiment(recipe, None))
    fresh = tiny_experiment(recipe, None)
    assert same_bits(after.state.adapter, fresh.trainer.train(Job(fresh.initial), fresh.parts.train, fresh.parts.held[0], 1, 0))


def poison(made: Experiment, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of one device give NaN, so its loss is NaN from the first step."""
    plain, bad = made.parts.trunk.batch, set(made.parts.held[device].tolist())

    def batch(samples: Any, indices: np.ndarray) -> Batch:
        states = plain(samples, indices)
        spoilt = samples is made.parts.train and bool(bad & set(indices.tolist()))
        return replace(states, hidden=states.hidden * math.nan) if spoilt else states

    monkeypatch.setattr(made.parts.trunk, "batch", batch)


def test_a_nan_loss_is_refused_and_the_others_go_on(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 2})
    made = tiny_experiment(recipe, None)
    poison(made, 1, monkeypatch)
    rounds = list(made.run())
    for result in rounds[1:]:
        assert [device.refused is not None for device in result.devices] == [False, True, False]
        assert "nan" in str(result.devices[1].refused)
        assert result.record.refused == 1
        assert all(bool(torch.isfinite(tensor).all()) for tensor in named_tensors(result.state.adapter).values())
    clean = tiny_experiment(recipe, None)
    sound = [
        clean.trainer.train(Job(clean.initial), clean.parts.train, clean.parts.held[device], 1, device) for device in (0, 2)
    ]
    assert same_bits(rounds[1].state.adapter, clean.rule.server.apply(ServerState(clean.initial), sound).adapter)


def test_rounds_without_one_usable_update_end_the_run(tiny_bert: Path) -> None:
    recipe = tiny_recipe(
        tiny_bert,
        federation={"rounds": 5, "max_failed_rounds": 2},
        training={"learning_rate": 1e30, "optimizer": "sgd", "local_epochs": 3, "max_grad_norm": 0.0},
    )
    made = tiny_experiment(recipe, None)
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match=r"last 2 rounds.*training\.learning_rate"):
        seen.extend(made.run())  # keeps what came before the error
    assert [(result.record.round, result.record.refused) for result in seen] == [(0, 0), (1, 3), (2, 3)]
    assert all(same_bits(result.state.adapter, made.initial) for result in seen)
    assert seen[2].record.value("test_loss") == seen[0].record.value("test_loss")


def test_failed_rounds_count_in_a_row(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One device a round, so a round fails when it is the spoilt device's: twice in a row is too often, with others
    between it is not, and a resumed run has the failures before it counted."""
    recipe = tiny_recipe(tiny_bert, seed=3, federation={"rounds": 5, "max_failed_rounds": 2, "devices_per_round": 1})
    turns = [choose_devices(range(3), 1, recipe.seed, number)[0] for number in range(1, 6)]
    assert turns == [1, 2, 2, 1, 2]

    def rounds_and_end(bad: int, failed: int = 0) -> tuple[int, str]:
        made = tiny_experiment(recipe, None)
        poison(made, bad, monkeypatch)
        seen: list[RoundResult] = []
        try:
            seen.extend(made.run(failed=failed))
        except TrainingStopped:
            return seen[-1].record.round, "stopped"
        return seen[-1].record.round, "finished"

    assert rounds_and_end(bad=2) == (3, "stopped")
    assert rounds_and_end(bad=1) == (5, "finished")
    assert rounds_and_end(bad=1, failed=1) == (1, "stopped")
    assert rounds_and_end(bad=2, failed=1) == (3, "stopped")  # round 1 went well in between
