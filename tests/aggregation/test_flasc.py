"""FLASC against dense masks made with loops, its bytes, and what a device may not send."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.rules.flasc import FlascKeys, count_of, largest
from fedfit.aggregation.server_optimizer import with_server_optimizer
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import (
    LORA_A,
    LORA_B,
    PAIRS,
    AdapterSize,
    Job,
    ServerState,
    Update,
    named_tensors,
    with_tensors,
)
from fedfit.experiment.build import Experiment
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline
from fedfit.rounds.devices import completed
from fedfit.rounds.loop import initial_result, run_round
from fedfit.settings import FederationSettings
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from tests.aggregation.rewiring import connect, randomised
from tests.aggregation.watching import Spoiled, record
from tests.builders import link_of, packed, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe
from tests.simulation.test_clock import planned

CODEC = PlainCodec()
STATE = random_update(9, rank=3, scale=2.0)
GROUPS = STATE.present
SIZE = AdapterSize(3, 2.0)
ENTRIES = 2 * 3 * (6 + 5)  # two modules, A (3, 6) and B (5, 3)


def kept(vector: list[float], count: int) -> list[int]:
    """The slow twin: the largest is taken ``count`` times, of equals the first."""
    left, found = list(range(len(vector))), []
    for _ in range(count):
        best = left[0]
        for position in left:
            if abs(vector[position]) > abs(vector[best]):
                best = position
        found.append(best)
        left.remove(best)
    return sorted(found)


def dense_top(update: Update, density: float) -> Update:
    """The slow twin of a direction: one list of all numbers, every A and then every B, and zero where they are not kept."""
    pairs = [(end, name) for end in (LORA_A, LORA_B) for name in sorted(update.factors)]
    flat = [float(x) for end, name in pairs for x in update.groups[end][name].reshape(-1)]
    chosen = set(kept(flat, max(1, round(density * len(flat)))))
    masked: dict[str, dict[str, Tensor]] = {LORA_A: {}, LORA_B: {}}
    place = 0
    for end, name in pairs:
        copy = update.groups[end][name].clone().reshape(-1)
        for position in range(copy.numel()):
            if place not in chosen:
                copy[position] = 0
            place += 1
        masked[end][name] = copy.reshape(update.groups[end][name].shape)
    return update.with_groups(masked)


def pair(update: Update, name: str) -> tuple[Tensor, Tensor]:
    return update.factors[name].a, update.factors[name].b


def flasc(down: float = 0.25, up: float = 0.25) -> Rule:
    return rule_of("flasc", download_density=down, upload_density=up)


def dispatched(rule: Rule, adapter: Update, device: int = 0) -> Update:
    return rule.server.dispatch(ServerState(adapter), device, SIZE, 0)


def by_wire(rule: Rule, sent: Update, initial: Update | None) -> Job:
    """What a device trains from, after a packet that holds what the rule says and no more."""
    received = CODEC.decode(packed(sent.only(rule.traits.downlink_groups(1, GROUPS))))
    return rule.device.receive(completed(received, initial), None)


# The largest


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
@pytest.mark.parametrize("values", [[3, -1, 2, 2, -2, 0, 2, -3, 0, 1], [0] * 10, [1, 2, 3, 4, 5, -5, -4, -3, -2, -1]])
def test_the_largest_and_of_equals_the_first(values: list[float], count: int) -> None:
    assert largest(torch.tensor(values, dtype=torch.float32), count).tolist() == kept(values, count)


def test_what_is_no_number_is_sent_so_that_it_can_be_seen() -> None:
    assert largest(torch.tensor([1.0, math.nan, 2.0, -math.inf]), 2).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("entries", "density", "count"), [(66, 0.25, 16), (10, 0.25, 2), (14, 0.25, 4), (5, 0.01, 1), (7, 1, 7)]
)
def test_the_count_is_rounded_and_never_zero(entries: int, density: float, count: int) -> None:
    """0.25 · 66 = 16.5 and 0.25 · 10 = 2.5 go to the even number, 3.5 too."""
    assert count_of(entries, density) == count


# The rule


@pytest.mark.parametrize("density", [0.01, 0.1, 0.25, 0.5, 1.0])
def test_a_device_trains_from_the_largest_numbers_and_zeros(density: float) -> None:
    rule = flasc(density, 0.5)
    job = by_wire(rule, dispatched(rule, STATE), random_update(50, rank=3))
    assert same_bits(job.update, dense_top(STATE, density))
    count = sum(int((tensor != 0).sum()) for name in STATE.factors for tensor in pair(job.update, name))
    assert count == max(1, round(density * ENTRIES))


def test_a_device_takes_over_another_rank() -> None:
    """A plan may change it; the device's own draw has the rank of the first round."""
    sent = dispatched(flasc(1.0), STATE)
    for rank in (1, 2, 5):
        assert same_bits(by_wire(flasc(1.0), sent, random_update(50, rank=rank)).update, STATE)


WEIGHTS = (3.0, 5.0, 11.0)


def is_head(name: str) -> bool:
    return name.startswith("head.")


def twin_round(state: Update, ends: Iterable[Update], down: float, up: float) -> Update:
    """θ + Σp_i top(Δ_i) in numpy's float64, and the mean of the heads; ``ends`` are the adapters that devices trained from
    top(θ)."""
    start, sums = named_tensors(dense_top(state, down)), {n: t.double() * 0 for n, t in named_tensors(state).items()}
    for end in ends:
        moved = {n: t - start[n] if not is_head(n) else t for n, t in named_tensors(end).items()}
        for name, tensor in named_tensors(dense_top(with_tensors(state, moved), up)).items():
            sums[name] += end.weight / sum(WEIGHTS) * tensor.double()
    new = {n: t if is_head(n) else named_tensors(state)[n].double() + t for n, t in sums.items()}
    return with_tensors(state, {name: tensor.float() for name, tensor in new.items()})


def device_end(rule: Rule, sent: Update, device: int, weight: float) -> Update:
    """A device whose training adds noise to all that it was given."""
    start, noise = by_wire(rule, sent, random_update(50, rank=3)).update, named_tensors(random_update(device, rank=3))
    ends = {n: t + noise[n] / (10 if n.startswith(LORA_A) else 1) for n, t in named_tensors(start).items()}
    return replace(with_tensors(start, ends), weight=weight)


def replies(rule: Rule, state: Update) -> tuple[list[Update], list[Update]]:
    """Where devices ended, and what the server reads of it after a packet."""
    ends, read = [], []
    for device, weight in enumerate(WEIGHTS):
        sent = dispatched(rule, state, device)
        ends.append(device_end(rule, sent, device, weight))
        answer, memory = rule.device.send(by_wire(rule, sent, state), ends[-1], None)
        assert memory is None
        read.append(CODEC.decode(packed(answer.only(rule.traits.uplink_groups(1, GROUPS))), sent))
    return ends, read


@pytest.mark.parametrize(("down", "up"), [(0.25, 0.25), (1.0, 0.1), (0.05, 1.0), (0.5, 0.01), (1.0, 1.0)])
def test_a_round_is_that_of_the_dense_twin(down: float, up: float) -> None:
    rule = flasc(down, up)
    ends, read = replies(rule, STATE)
    after = named_tensors(rule.server.apply(ServerState(STATE), iter(read)).adapter)
    twin = named_tensors(twin_round(STATE, ends, down, up))
    assert after.keys() == twin.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, twin[name], rtol=1e-6, atol=1e-7)
    if (down, up) == (1.0, 1.0):
        for name, tensor in named_tensors(FEDAVG.server.apply(ServerState(STATE), iter(ends)).adapter).items():
            torch.testing.assert_close(after[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("density", [0.25, 1.0])
def test_a_server_optimiser_steps_along_the_mean_change(density: float) -> None:
    """Adam by hand, two rounds: m = 0.1 g, then 0.9 m + 0.1 g; v from τ² by β2; every factor is stepped.

    With all that was sent equal to the state, as at density 1, updates hold nothing that differs from it.
    """
    inner, beta1, beta2, tau, rate = flasc(density, density), 0.9, 0.99, 1e-3, 0.01
    adam = FederationSettings(server_optimizer="adam", server_learning_rate=rate)
    rule = with_server_optimizer(inner, adam)
    state, m, v = rule.server.init(STATE), None, None
    for _ in range(2):
        old = {n: t.double() for n, t in named_tensors(state.adapter).items()}
        ends, read = replies(inner, state.adapter)
        new = named_tensors(twin_round(state.adapter, ends, density, density))
        change = {name: new[name].double() - tensor for name, tensor in old.items()}
        m = {n: beta1 * (m[n] if m else 0.0) + (1 - beta1) * g for n, g in change.items()}
        v = {n: beta2 * (v[n] if v else torch.full_like(g, tau**2)) + (1 - beta2) * g.square() for n, g in change.items()}
        state = rule.server.apply(state, iter(read))
        for name, tensor in named_tensors(state.adapter).items():
            expected = old[name] + rate * m[name] / (v[name].sqrt() + tau)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)
            assert density < 1 or not torch.equal(tensor.double(), old[name])


# On the wire


def simulation(folder: Path, rounds: int = 3, **densities: float) -> Experiment:
    federation = {"rule": "flasc", "rounds": rounds, "options": {"flasc": FlascKeys(**densities)}}
    return randomised(tiny_experiment(tiny_recipe(folder, federation=federation, training={"local_steps": 2}), None))


@pytest.mark.parametrize(("down", "up"), [(0.25, 0.25), (1.0, 0.01), (0.01, 0.5), (1.0, 1.0), (0.99, 0.98)])
def test_what_travels_is_counted_to_the_byte(down: float, up: float, tiny_bert: Path) -> None:
    """Of a density below 1 the values and the fewer bytes of bitmap and indices; at 1 all numbers, and no places."""
    made = simulation(tiny_bert, download_density=down, upload_density=up)
    codec = record(made)
    first = list(islice(made.run(), 2))[-1]
    assert [line.refused for line in first.devices] == [None] * 3
    entries = sum(tensor.numel() for name in made.initial.factors for tensor in pair(made.initial, name))
    heads = {f"head.{name}" for name in made.initial.groups["head"]}
    head_bytes = 4 * sum(tensor.numel() for tensor in made.initial.groups["head"].values())
    assert len(codec.packets) == 6
    traffic = [of(made.rule, PlainCodec(), made.initial, 3) for of in (downlink_traffic, uplink_traffic)]
    rank = made.initial.rank
    most = [(way.bits_fixed + rank * way.bits_per_rank) / 8 for way in traffic]
    for number, packet in enumerate(codec.packets):
        density = up if number % 2 else down
        count = max(1, round(density * entries))
        tensors = load(packet.payload)
        pairs = {name for name in named_tensors(made.initial) if not is_head(name)}
        assert set(tensors) == heads | (pairs if density == 1 else {"sparse values", "sparse places"})
        header_bytes = 8 + int.from_bytes(packet.payload[:8], "little")
        place_bytes = 0 if density == 1 else min(4 * count, math.ceil(entries / 8))
        assert packet.size_bytes == header_bytes + 4 * count + place_bytes + head_bytes
        line = first.devices[number // 2]
        assert packet.size_bytes == (line.uplink_bytes if number % 2 else line.downlink_bytes)
        assert most[number % 2] - 500 < packet.size_bytes <= most[number % 2]


@pytest.mark.parametrize("density", [0.01, 0.25, 1.0])
def test_a_plan_counts_what_travels_at_every_rank(density: float) -> None:
    """At each rank of 12 at least what is really sent, and at most 700 bytes more, for names and wide numbers."""
    rule, widest = flasc(density, density / 2), random_update(1, rank=12)
    traffic = downlink_traffic(rule, CODEC, widest, 3)
    for rank in range(1, 13):
        adapter = random_update(2, rank=rank, scale=1 / rank)
        update = rule.server.dispatch(ServerState(adapter), 0, AdapterSize(rank, 1 / rank), 0)
        sent = packed(update.only(rule.traits.downlink_groups(1, GROUPS))).size_bytes
        assert sent <= (traffic.bits_fixed + rank * traffic.bits_per_rank) / 8 <= sent + 700


@pytest.mark.parametrize("density", [0.5, 0.97, 0.999, 1.0])
def test_a_packet_is_never_longer_than_an_order_allows(density: float) -> None:
    """Of 440,000 numbers the bitmap alone has 55 kB, and all of them may be there in spite of the density: it is not known."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 6000, generator=draw), torch.randn(5000, 40, generator=draw)
    adapter = Update({LORA_A: {"m": a}, LORA_B: {"m": b}}, {"m": 1.0})
    rule = flasc(1.0, density)
    sent = rule.server.dispatch(ServerState(adapter), 0, AdapterSize(40, 1.0), 0)
    answer, _ = rule.device.send(Job(sent), with_tensors(adapter, {n: t + 1 for n, t in named_tensors(adapter).items()}), None)
    (form,) = rule.server.reply_forms(sent)
    assert packed(answer).size_bytes <= CODEC.most_bytes(form)
    assert packed(replace(answer, sparse=PAIRS)).size_bytes <= CODEC.most_bytes(form)


def test_a_plan_that_changes_the_rank_is_followed(tiny_bert: Path) -> None:
    """Devices draw the initial adapter at the global rank, and train what they are sent at the round's own."""
    plan = {"policy": "joint", "deadline_s": 60.0, "count": "sent"}
    recipe = planned(tiny_bert, plan, federation={"rule": "flasc", "rounds": 3}, training={"local_steps": 1})
    rounds = list(tiny_experiment(recipe, None).run())[1:]
    ranks = [result.record.rank for result in rounds]
    assert len(set(ranks)) > 1, "the channel must change the rank, or this test shows little"
    for rank, result in zip(ranks, rounds, strict=True):
        assert [device.refused for device in result.devices] == [None] * 3
        assert {len(factors.a) for factors in result.state.adapter.factors.values()} == {rank}


def test_a_run_is_that_of_the_dense_twin(tiny_bert: Path) -> None:
    """Two rounds of real training: the same trainer works from dense masked factors, by the twin's own arithmetic."""
    made, other = simulation(tiny_bert), simulation(tiny_bert)
    found = list(islice(made.run(), 3))[-1].state.adapter
    state, parts = other.initial, other.parts
    for number in (1, 2):
        start = dense_top(state, 0.25)
        ends = [other.trainer.train(Job(start), parts.train, rows, number, n) for n, rows in enumerate(parts.held)]
        ends = [replace(end, weight=sum(WEIGHTS) / 3) for end in ends]  # the parts are of one size
        state = twin_round(state, ends, 0.25, 0.25)
    for name, tensor in named_tensors(found).items():
        torch.testing.assert_close(tensor, named_tensors(state)[name], rtol=1e-5, atol=1e-6)


VALUES, PLACES = "sparse values", "sparse places"


def with_values(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, VALUES: change(tensors[VALUES])}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: tensors, None),
        (lambda tensors: {}, "not a whole update: 'sparse values'"),
        (lambda tensors: {PLACES: tensors[PLACES]}, "not a whole update: 'sparse values'"),
        (lambda tensors: {VALUES: tensors[VALUES]}, "not a whole update: 'sparse places'"),
        (lambda tensors: {**tensors, "stray": torch.zeros(2)}, "'stray'"),
        (lambda tensors: {**tensors, "head.stray": torch.zeros(2)}, "unknown ['head.stray']"),
        (lambda tensors: {**tensors, PLACES: tensors[PLACES][1:]}, "positions: got"),
        (lambda tensors: {**tensors, PLACES: tensors[PLACES] * 0}, "positions: 0 bits are set"),
        (with_values(lambda values: values[1:]), "bits are set, wanted"),
        (with_values(Tensor.double), "sparse values of type torch.float64"),
        (with_values(lambda values: values * math.nan), "is not finite"),
    ],
)
def test_what_a_device_may_not_send_is_refused_and_the_round_goes_on(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str | None, tiny_bert: Path
) -> None:
    made = simulation(tiny_bert)
    connect(made, Spoiled(link_of(made), spoil))
    result = run_round(made.federation, initial_result(made.federation, made.initial).state, 1)
    assert [device.refused is not None for device in result.devices] == [False, reason is not None, False]
    assert reason is None or reason in (result.devices[1].refused or "")
    assert not same_bits(result.state.adapter, made.initial)


# The recipe


def faults(*overrides: str) -> list[tuple[str, str]]:
    recipe = parse_recipe("", [f"federation.{words}" for words in overrides])
    return [(fault.key, fault.remedy) for fault in validate_offline(recipe)]


def test_densities_are_read_by_flasc_alone() -> None:
    own = ("flasc.download_density=0.5", "flasc.upload_density=1.0")
    assert faults("rule=flasc", *own, "server_optimizer=adam") == []
    remedy = "federation.rule = 'fedavg' does not read it; remove it, or choose rule flasc"
    assert faults(*own) == [("federation.flasc", remedy)]


@pytest.mark.parametrize("name", ["download_density", "upload_density"])
@pytest.mark.parametrize(
    ("density", "remedy"), [(0.0, "must be above 0"), (1.1, "must be at most 1"), (-0.1, "must be above 0")]
)
def test_a_density_is_a_share(name: str, density: float, remedy: str) -> None:
    assert faults("rule=flasc", f"flasc.{name}={density}") == [(f"federation.flasc.{name}", remedy)]
