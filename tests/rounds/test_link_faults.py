"""What a network does to replies: they are lost, doubled, late, forged or too large. Each is recorded, and none counts."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order, Packet, Reply
from fedfit.core.update import Fact, Update
from fedfit.errors import TrainingStopped
from fedfit.records import DeviceRecord, RoundResult
from fedfit.rounds.loop import run, run_round
from fedfit.settings import FederationSettings
from tests.builders import packed, same_bits, tiny_experiment, tiny_recipe
from tests.rounds.links import ADAPTER, CODEC, SAMPLES, STATE, Echo, expected_adapter, federation, nothing_spoilt, trained

DOWN = packed(ADAPTER).size_bytes


def up(device: int) -> int:
    return packed(trained(ADAPTER, device)).size_bytes


def of_device(device: int, make: Callable[[Reply], Iterable[Reply]]) -> Callable[[Order, Reply], Iterable[Reply]]:
    """The network delivers what ``make`` has of the reply of ``device``, and those of the others as they are."""
    return lambda order, reply: make(reply) if order.device == device else [reply]


def played(deliver: Callable[[Order, Reply], Iterable[Reply]], **changes: Any) -> RoundResult:
    return run_round(replace(federation(Echo(deliver)), **changes), STATE, 1)


def bytes_add_up(result: RoundResult) -> bool:
    up_bytes, down_bytes = (sum(getattr(line, name) for line in result.devices) for name in ("uplink_bytes", "downlink_bytes"))
    return (result.record.uplink_bytes, result.record.downlink_bytes) == (up_bytes, down_bytes)


# Lost


def test_a_reply_that_never_comes_is_recorded() -> None:
    result = played(of_device(1, lambda reply: []))
    assert [line.device for line in result.devices] == [0, 3, 1], "after those that replied"
    lost = result.devices[2]
    assert lost == DeviceRecord(1, 1, 20, 0, None, uplink_bytes=0, downlink_bytes=DOWN, seconds=0.0, refused="no reply")
    assert (result.record.devices, result.record.refused) == (3, 1)
    assert same_bits(result.state.adapter, expected_adapter(0, 3))
    assert bytes_add_up(result)


def test_with_a_deadline_the_reason_names_it() -> None:
    result = played(of_device(1, lambda reply: []), reply_deadline_s=2.5)
    assert result.devices[2].refused == "no reply within 2.5 s"


def test_a_round_in_which_all_replies_are_missing_has_failed() -> None:
    result = played(lambda order, reply: [])
    assert result.state is STATE
    assert (result.record.devices, result.record.refused, result.record.train_loss) == (3, 3, None)
    assert [(line.device, line.refused) for line in result.devices] == [(0, "no reply"), (1, "no reply"), (3, "no reply")]


def test_rounds_in_which_all_replies_are_missing_end_the_run_in_words() -> None:
    silent = replace(federation(Echo(lambda order, reply: [])), max_failed_rounds=2)
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match="no update of the last 2 rounds was usable; the first reason: no reply"):
        seen.extend(run(silent, ADAPTER, rounds=5))
    assert [result.record.round for result in seen] == [0, 1, 2]


def test_a_link_without_a_device_ends_the_run_in_words_too() -> None:
    """Nothing is ordered and nothing is recorded."""

    class Nobody:
        def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
            return iter(())

    silent = replace(federation(Nobody()), max_failed_rounds=1)
    with pytest.raises(TrainingStopped, match="no device took part"):
        list(run(silent, ADAPTER, rounds=2))


# Beside the orders


def test_a_second_reply_is_recorded_and_not_counted() -> None:
    result = played(of_device(1, lambda reply: [reply, replace(reply, seconds=9.0)]))
    assert same_bits(result.state.adapter, expected_adapter(0, 1, 3))
    first, stray = (line for line in result.devices if line.device == 1)
    assert (first.refused, first.stray) == (None, False)
    assert stray == DeviceRecord(
        1, 1, 20, 0, None, up(1), 0, 9.0, refused="a second reply; the first one decided", stray=True
    )  # its bytes were sent; the order is counted once
    assert (result.record.devices, result.record.refused) == (3, 0)
    assert bytes_add_up(result)
    assert result.record.uplink_bytes == up(0) + 2 * up(1) + up(3)


def test_a_second_reply_does_not_mend_a_first_that_was_refused() -> None:
    result = played(of_device(1, lambda reply: [replace(reply, packet=Packet(b"garbage")), reply]))
    assert same_bits(result.state.adapter, expected_adapter(0, 3))
    assert [(line.stray, line.refused is None) for line in result.devices if line.device == 1] == [
        (False, False),
        (True, False),
    ]


@pytest.mark.parametrize("number", [0, 2, 7])
def test_a_reply_of_another_round_is_refused_and_its_device_is_still_waited_for(number: int) -> None:
    late = of_device(1, lambda reply: [replace(reply, round=number), reply])
    result = played(late)
    assert same_bits(result.state.adapter, expected_adapter(0, 1, 3))
    stray = next(line for line in result.devices if line.stray)
    assert (stray.device, stray.refused) == (1, f"a reply of round {number}; this is round 1")
    alone = played(of_device(1, lambda reply: [replace(reply, round=number)]))
    assert same_bits(alone.state.adapter, expected_adapter(0, 3))
    assert [line.refused for line in alone.devices if line.device == 1] == [
        f"a reply of round {number}; this is round 1",
        "no reply",
    ]
    assert (alone.record.devices, alone.record.refused) == (3, 1)


@pytest.mark.parametrize("device", [2, 4, 99, 10**12, -1])
def test_a_reply_of_a_device_that_was_not_asked_is_recorded_and_not_counted(device: int) -> None:
    """Also of one that is not in the federation at all."""
    result = played(of_device(1, lambda reply: [replace(reply, device=device), reply]))
    assert same_bits(result.state.adapter, expected_adapter(0, 1, 3))
    stray = next(line for line in result.devices if line.stray)
    assert (stray.device, stray.samples, stray.refused) == (device, 0, "a reply that nobody asked for")
    assert (result.record.devices, result.record.refused) == (3, 0)
    assert DeviceRecord.from_json(json.loads(json.dumps(stray.to_json()))) == stray


def test_another_device_cannot_speak_for_one() -> None:
    """Device 0 has answered; what comes next in its name is a second reply, whoever sent it."""
    result = played(of_device(1, lambda reply: [replace(reply, device=0)]))
    assert same_bits(result.state.adapter, expected_adapter(0, 3))
    assert [(line.device, line.refused) for line in result.devices if line.refused] == [
        (0, "a second reply; the first one decided"),
        (1, "no reply"),
    ]


FAULTS: dict[str, Callable[[Reply], list[Reply]]] = {
    "sound": lambda reply: [reply],
    "lost": lambda reply: [],
    "doubled": lambda reply: [reply, reply],
    "stale": lambda reply: [replace(reply, round=reply.round - 1)],
    "early and sound": lambda reply: [replace(reply, round=reply.round + 1), reply],
    "garbage": lambda reply: [replace(reply, packet=Packet(b"{}"))],
    "refused": lambda reply: [replace(reply, packet=None, refusal="busy")],
    "stranger's": lambda reply: [replace(reply, device=2), reply],
}
COUNTS = {"sound", "doubled", "early and sound", "stranger's"}


@given(st.tuples(*[st.sampled_from(sorted(FAULTS))] * 3), st.permutations([0, 1, 2]))
def test_each_order_is_recorded_once_whatever_the_network_does(faults: tuple[str, ...], order: list[int]) -> None:
    """The global model is the mean of those whose first reply is sound; each order has one line that is not stray."""
    by_device = dict(zip((0, 1, 3), faults, strict=True))
    link = Echo(lambda order, reply: FAULTS[by_device[order.device]](reply), lambda orders: [orders[place] for place in order])
    result = run_round(federation(link), STATE, 1)
    own = [line for line in result.devices if not line.stray]
    assert sorted(line.device for line in own) == [0, 1, 3]
    used = {line.device for line in own if line.refused is None}
    assert used == {device for device, fault in by_device.items() if fault in COUNTS}
    assert same_bits(result.state.adapter, expected_adapter(*sorted(used)) if used else ADAPTER)
    assert result.record.refused == 3 - len(used)
    assert all(line.refused for line in result.devices if line.stray)
    assert bytes_add_up(result)


# Forged and too large


def spoilt(device: int, change: Callable[[Update], Update]) -> Callable[[Order, Reply], list[Reply]]:
    def deliver(order: Order, reply: Reply) -> list[Reply]:
        if order.device != device:
            return [reply]
        return [replace(reply, packet=packed(change(trained(CODEC.decode(order.packet), device))))]

    return deliver


@pytest.mark.parametrize("weight", [2.0**53, 20.5, 21.0, 1e308])
def test_a_device_cannot_claim_more_samples_than_it_registered(weight: float) -> None:
    result = played(spoilt(1, lambda update: replace(update, weight=weight)))
    assert same_bits(result.state.adapter, expected_adapter(0, 3))
    refused = next(line for line in result.devices if line.device == 1)
    assert refused.refused == f"the update claims {weight:g} samples; the device registered 20"
    assert refused.samples == SAMPLES[1]


@pytest.mark.parametrize("weight", [20.0, 12.0, 0.5])
def test_it_may_claim_as_many_or_fewer(weight: float) -> None:
    """A device may leave samples out; its weight in the mean is what it says."""
    result = played(spoilt(1, lambda update: replace(update, weight=weight)))
    updates = [replace(trained(ADAPTER, device), weight=own) for device, own in ((0, 10.0), (1, weight), (3, 30.0))]
    fedavg = federation(Echo()).rule
    assert same_bits(result.state.adapter, fedavg.server.apply(STATE, updates).adapter)


def test_a_false_weight_is_refused_where_devices_weigh_alike_as_well() -> None:
    result = played(spoilt(1, lambda update: replace(update, weight=2.0**53)), uniform=True)
    assert [line.refused is None for line in result.devices] == [True, False, True]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"steps": 3.0, "train_loss": 0.5}, "the fact steps is 3.0, not a number of steps"),
        ({"steps": True, "train_loss": 0.5}, "the fact steps is True, not a number of steps"),
        ({"steps": "3", "train_loss": 0.5}, "the fact steps is '3', not a number of steps"),
        ({"steps": -1, "train_loss": 0.5}, "the fact steps is -1, not a number of steps"),
        ({"steps": 3, "train_loss": "low"}, "the fact train_loss is 'low', not a number"),
        ({"steps": 3, "train_loss": True}, "the fact train_loss is True, not a number"),
        ({"steps": 3, "train_loss": 0.5, "own": float("inf")}, "the fact own is inf"),
        ({"steps": 2**70}, "the packet is not a whole update: the fact steps is out of range"),
    ],
    ids=str,
)
def test_facts_of_other_types_are_refused(facts: dict[str, Fact], reason: str) -> None:
    result = played(spoilt(1, lambda update: replace(update, facts=facts)))
    assert [line.refused for line in result.devices] == [None, reason, None]
    assert same_bits(result.state.adapter, expected_adapter(0, 3))


def test_facts_may_be_left_out() -> None:
    result = played(spoilt(1, lambda update: replace(update, facts={})))
    assert [line.refused for line in result.devices] == [None, None, None]
    assert (result.devices[1].steps, result.devices[1].train_loss) == (0, None)


def test_90_mb_of_header_are_refused_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A safetensors header may be 100 MB: JSON of that size would take gigabytes to read."""
    header = b'{"__metadata__":{"fedfit":"' + b" " * 90_000_000 + b'"}}'
    bomb = Packet(len(header).to_bytes(8, "little") + header)
    decoded: list[int] = []

    class Watched(PlainCodec):
        def decode(self, packet: Packet, reference: Update | None = None) -> Update:
            decoded.append(packet.size_bytes)
            return super().decode(packet, reference)

    result = played(of_device(1, lambda reply: [replace(reply, packet=bomb)]), uplink=Watched())
    assert decoded == [up(0), up(3)]
    line = result.devices[1]
    assert line.refused is not None
    assert line.refused.startswith(f"the packet has {bomb.size_bytes} bytes; the order allows ")
    assert line.uplink_bytes == bomb.size_bytes, "it was sent all the same"
    assert same_bits(result.state.adapter, expected_adapter(0, 3))


def test_the_longest_packet_that_an_order_allows_is_read_and_one_byte_more_is_not() -> None:
    limit = CODEC.most_bytes(ADAPTER)

    def filled(reply: Reply, more: int) -> list[Reply]:
        """A fact of a text that makes the packet ``limit + more`` bytes long."""
        sent = trained(ADAPTER, 1)
        short = packed(replace(sent, facts={**sent.facts, "text": ""})).size_bytes
        text = "x" * (limit + more - short)
        packet = packed(replace(sent, facts={**sent.facts, "text": text}))
        return [replace(reply, packet=packet)]

    sizes: list[int | None] = []
    for more in (-8, 8):  # a header is filled up to a multiple of 8
        result = played(of_device(1, lambda reply, more=more: filled(reply, more)))  # type: ignore[misc]
        sizes.append(result.devices[1].uplink_bytes - limit)
        assert (result.devices[1].refused is None) == (more < 0)
    assert sizes[0] is not None
    assert sizes[1] is not None
    assert -16 <= sizes[0] <= 0 < sizes[1]


def test_there_is_room_for_every_reply_of_an_honest_device() -> None:
    """Weight, facts and scales with as many digits as any have."""
    long = 1 / 3 * 1e-300
    wordy = replace(ADAPTER, scales=dict.fromkeys(ADAPTER.scales, long), weight=1e15 + 1 / 3)
    facts: dict[str, Fact] = {"steps": 2**62, "train_loss": long, "learning_rate_sum": long, "pruned": True}
    assert packed(replace(wordy, facts=facts)).size_bytes <= CODEC.most_bytes(ADAPTER)


# Deadlines


def test_the_deadline_reaches_the_link() -> None:
    for deadline_s in (None, 4.0):
        link = Echo(nothing_spoilt, deadlines=[])
        run_round(replace(federation(link), reply_deadline_s=deadline_s), STATE, 1)
        assert link.deadlines == [deadline_s]


def test_a_device_that_takes_longer_is_lost(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices in this process: device 1 takes an hour by its own clock."""
    recipe = tiny_recipe(tiny_bert, federation={"rounds": 1, "reply_deadline_s": 60.0})
    made, plain = tiny_experiment(recipe, None), tiny_experiment(recipe, None)
    answer = made.devices.answer

    def slow(order: Order) -> Reply:
        reply = answer(order)
        return replace(reply, seconds=3600.0) if order.device == 1 else reply

    monkeypatch.setattr(made.devices, "answer", slow)
    late, whole = list(made.run())[-1], list(plain.run())[-1]
    assert [(line.device, line.refused) for line in late.devices] == [(0, None), (2, None), (1, "no reply within 60 s")]
    assert [line.refused for line in whole.devices] == [None, None, None]
    assert not same_bits(late.state.adapter, whole.state.adapter)


def test_by_default_there_is_none() -> None:
    assert FederationSettings().reply_deadline_s is None
