"""FLASC against dense masks made with loops, its bytes, and what a device may not send."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from fedfit.aggregation.base import named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.flasc import Flasc
from fedfit.aggregation.server_optimizer import ServerOptimizer
from fedfit.aggregation.sparse import count_of, largest, pack, positions_form, unpack
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import UpdateRefused
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.rule_faults import rule_faults
from fedfit.records import PARTS, AdapterSize, Packet, Task, Update
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import initial_result, run_round
from fedfit.simulation.run import Simulation, run
from fedfit.simulation.traffic import downlink_traffic, uplink_traffic
from tests.aggregation.watching import Spoiled
from tests.builders import link_of, random_update, randomise, same_bits, tiny_recipe, tiny_simulation
from tests.simulation.test_clock import planned

CODEC = SafetensorsCodec()
STATE = random_update(9, rank=3, scale=2.0)
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
    """The slow twin of a direction: one list of all numbers, module by module, and zero where they are not kept."""
    flat = [float(x) for name in sorted(update.factors) for t in pair(update, name) for x in t.reshape(-1)]
    chosen = set(kept(flat, max(1, round(density * len(flat)))))
    masked, place = {}, 0
    for name in sorted(update.factors):
        new = []
        for tensor in pair(update, name):
            copy = tensor.clone().reshape(-1)
            for position in range(copy.numel()):
                if place not in chosen:
                    copy[position] = 0
                place += 1
            new.append(copy.reshape(tensor.shape))
        masked[name] = replace(update.factors[name], a=new[0], b=new[1])
    return replace(update, factors=masked)


def pair(update: Update, name: str) -> tuple[Tensor, Tensor]:
    return update.factors[name].a, update.factors[name].b


def by_wire(rule: FedAvg, sent: Update, initial: Update) -> Task:
    """What a device trains from, after a packet that holds what the rule says and no more."""
    return rule.receive(CODEC.decode(CODEC.encode(sent, rule.gets(1)), initial), None)


# Positions


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


@pytest.mark.parametrize(("entries", "count"), [(1, 1), (8, 1), (9, 1), (32, 1), (33, 1), (100, 3), (100, 4), (1000, 30)])
def test_positions_travel_in_the_fewer_bytes(entries: int, count: int) -> None:
    """⌈n/8⌉ bytes of bits against 4k of indices: at k = 1 the switch lies between 32 entries and 33."""
    positions = torch.from_numpy(np.sort(np.random.default_rng(entries).permutation(entries)[:count]))
    packed = pack(positions, entries)
    assert (packed.shape[0], packed.dtype) == positions_form(entries, count)
    assert packed.numel() * packed.element_size() == min(math.ceil(entries / 8), 4 * count)
    assert torch.equal(unpack(packed, entries, count), positions)
    if packed.dtype == torch.uint8:
        bits = "".join(f"{byte:08b}" for byte in packed.tolist())
        assert [place for place, bit in enumerate(bits) if bit == "1"] == positions.tolist()


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    "packed",
    [None, ints(1, 2), ints(1, 2, 3, 4), ints(3, 2, 5), ints(2, 2, 5), ints(-1, 2, 5), ints(1, 2, 100), ints(1, 2, 5).long()],
)
def test_indices_from_outside_are_held_to_what_they_may_be(packed: Tensor | None) -> None:
    assert unpack(ints(0, 2, 99), 100, 3).tolist() == [0, 2, 99]
    with pytest.raises(UpdateRefused, match="positions"):
        unpack(packed, 100, 3)


@pytest.mark.parametrize("packed", [[0b11100000], [0b11100000, 0, 0], [0b11110000, 0], [0b11000000, 0], [0b11000000, 1]])
def test_a_bitmap_from_outside_has_as_many_bits_as_are_due(packed: list[int]) -> None:
    """Of ten entries three: two bytes, whose last six bits are zero."""
    assert unpack(torch.tensor([0b10100000, 0b01000000], dtype=torch.uint8), 10, 3).tolist() == [0, 2, 9]
    with pytest.raises(UpdateRefused, match="positions"):
        unpack(torch.tensor(packed, dtype=torch.uint8), 10, 3)


# The rule


@pytest.mark.parametrize("density", [0.01, 0.1, 0.25, 0.5, 1.0])
def test_a_device_trains_from_the_largest_numbers_and_zeros(density: float) -> None:
    sent = Flasc(density, 0.5).dispatch(STATE, 0, SIZE, 0)
    task = by_wire(Flasc(density, 0.5), sent, random_update(50, rank=3))
    assert same_bits(task.update, dense_top(STATE, density))
    count = sum(int((tensor != 0).sum()) for name in STATE.factors for tensor in pair(task.update, name))
    assert count == max(1, round(density * ENTRIES))


def test_a_device_takes_over_another_rank() -> None:
    """A plan may change it; the device's own draw has the rank of the first round."""
    sent = Flasc(1.0).dispatch(STATE, 0, SIZE, 0)
    for rank in (1, 2, 5):
        assert same_bits(by_wire(Flasc(1.0), sent, random_update(50, rank=rank)).update, STATE)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {}},
        *[{"metrics": {"rank": rank}} for rank in (0, -1, 2, 2.5, math.inf, math.nan, 1e300)],
        {"extra": {}},
        {"extra": {"values": torch.zeros(16)}},
        {"extra": {"values": torch.zeros(15), "positions": torch.zeros(9, dtype=torch.uint8)}},
        {"extra": {"values": torch.zeros(16), "positions": torch.zeros(9, dtype=torch.uint8)}},
    ],
)
def test_a_device_refuses_what_does_not_fit(change: dict[str, object]) -> None:
    sent = replace(Flasc(0.25).dispatch(STATE, 0, SIZE, 0), **change)  # type: ignore[arg-type]
    with pytest.raises(UpdateRefused):
        by_wire(Flasc(0.25), sent, STATE)


WEIGHTS = (3.0, 5.0, 11.0)


def twin_round(state: Update, ends: Iterable[Update], down: float, up: float) -> Update:
    """θ + Σp_i top(Δ_i) in numpy's float64, and the mean of the heads; ``ends`` is where devices came to from top(θ)."""
    start, sums = named_tensors(dense_top(state, down)), {n: t.double() * 0 for n, t in named_tensors(state).items()}
    for end in ends:
        moved = {n: t - start[n] if not n.startswith("head ") else t for n, t in named_tensors(end).items()}
        factors = {n: replace(p, a=moved[f"{n} A"], b=moved[f"{n} B"]) for n, p in end.factors.items()}
        for name, tensor in named_tensors(dense_top(replace(end, factors=factors), up)).items():
            sums[name] += end.weight / sum(WEIGHTS) * tensor.double()
    new = {n: t if n.startswith("head ") else named_tensors(state)[n].double() + t for n, t in sums.items()}
    factors = {n: replace(p, a=new[f"{n} A"].float(), b=new[f"{n} B"].float()) for n, p in state.factors.items()}
    return Update(factors, {name: new[f"head {name}"].float() for name in state.head})


def device_end(rule: Flasc, sent: Update, device: int, weight: float) -> Update:
    """A device whose training adds noise to all that it was given."""
    task, noise = by_wire(rule, sent, random_update(50, rank=3)), random_update(device, rank=3)
    factors = {
        n: replace(p, a=p.a + noise.factors[n].a / 10, b=p.b + noise.factors[n].b) for n, p in task.update.factors.items()
    }
    return Update(factors, {n: t + noise.head[n] for n, t in task.update.head.items()}, weight)


def replies(rule: Flasc, state: Update) -> tuple[list[Update], list[Update]]:
    """Where devices came to, and what the server reads of it after a packet."""
    ends, read = [], []
    for device, weight in enumerate(WEIGHTS):
        sent = rule.dispatch(state, device, SIZE, device)
        ends.append(device_end(rule, sent, device, weight))
        answer, memory = rule.send(by_wire(rule, sent, state), ends[-1], None)
        assert memory is None
        read.append(CODEC.decode(CODEC.encode(answer, rule.sends(1)), sent, rule.sends(1)))
    return ends, read


@pytest.mark.parametrize(("down", "up"), [(0.25, 0.25), (1.0, 0.1), (0.05, 1.0), (0.5, 0.01), (1.0, 1.0)])
def test_a_round_is_that_of_the_dense_twin(down: float, up: float) -> None:
    rule = Flasc(down, up)
    ends, read = replies(rule, STATE)
    after, twin = named_tensors(rule.apply(STATE, iter(read))), named_tensors(twin_round(STATE, ends, down, up))
    assert after.keys() == twin.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, twin[name], rtol=1e-6, atol=1e-7)
    if (down, up) == (1.0, 1.0):
        for name, tensor in named_tensors(FedAvg().apply(STATE, iter(ends))).items():
            torch.testing.assert_close(after[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("densities", [(0.0, 0.5), (0.5, 0.0), (1.1, 0.5), (0.5, -0.1)])
def test_a_density_is_a_share(densities: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Flasc(*densities)


@pytest.mark.parametrize("density", [0.25, 1.0])
def test_a_server_optimiser_steps_along_the_mean_change(density: float) -> None:
    """Adam by hand, two rounds: m = 0.1 g, then 0.9 m + 0.1 g; v from τ² by β2; every factor is stepped.

    With all that was sent equal to the state, as at density 1, updates hold nothing that differs from it.
    """
    inner = Flasc(density, density)
    rule, beta1, beta2, tau, rate = ServerOptimizer(inner, "adam", 0.01), 0.9, 0.99, 1e-3, 0.01
    state, m, v = rule.init(STATE), None, None
    for _ in range(2):
        old = {n: t.double() for n, t in named_tensors(state.adapter).items()}
        ends, read = replies(inner, state.adapter)
        new = named_tensors(twin_round(state.adapter, ends, density, density))
        change = {name: new[name].double() - tensor for name, tensor in old.items()}
        m = {n: beta1 * (m[n] if m else 0.0) + (1 - beta1) * g for n, g in change.items()}
        v = {n: beta2 * (v[n] if v else torch.full_like(g, tau**2)) + (1 - beta2) * g.square() for n, g in change.items()}
        state = rule.apply(state, iter(read))
        for name, tensor in named_tensors(state.adapter).items():
            expected = old[name] + rate * m[name] / (v[name].sqrt() + tau)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-6)
            assert density < 1 or not torch.equal(tensor.double(), old[name])


# On the wire


class Listening(SafetensorsCodec):
    """Keeps every packet: an order, its reply, the next order."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


def simulation(folder: Path, **federation: object) -> Simulation:
    keys = {"rule": "flasc", "rounds": 3, **federation}
    made = tiny_simulation(tiny_recipe(folder, federation=keys, training={"local_steps": 2}), None)
    randomise(made.model, seed=4)
    made.initial = made.model.adapter.snapshot()
    return made


@pytest.mark.parametrize(("down", "up"), [(0.25, 0.25), (1.0, 0.01), (0.01, 0.5)])
def test_what_travels_is_counted_to_the_byte(down: float, up: float, tiny_bert: Path) -> None:
    made = simulation(tiny_bert, download_density=down, upload_density=up)
    made.codec = codec = Listening()
    first = list(islice(run(made), 2))[-1]
    entries = sum(tensor.numel() for name in made.initial.factors for tensor in pair(made.initial, name))
    head_bytes = 4 * sum(tensor.numel() for tensor in made.initial.head.values())
    assert len(codec.packets) == 6
    rank = made.recipe.adapter.rank
    traffic = [way(made.rule, SafetensorsCodec(), made.initial, 3) for way in (downlink_traffic, uplink_traffic)]
    most = [(way.bits_fixed + rank * way.bits_per_rank) / 8 for way in traffic]
    for number, packet in enumerate(codec.packets):
        count = max(1, round((up if number % 2 else down) * entries))
        tensors = load(packet.payload)
        assert set(tensors) == {"extra.values", "extra.positions", *(f"head.{name}" for name in made.initial.head)}
        header_bytes = 8 + int.from_bytes(packet.payload[:8], "little")
        numbers_bytes = 4 * count + min(4 * count, math.ceil(entries / 8)) + head_bytes
        assert packet.size_bytes == header_bytes + numbers_bytes
        line = first.devices[number // 2]
        assert packet.size_bytes == (line.uplink_bytes if number % 2 else line.downlink_bytes)
        assert most[number % 2] - 500 < packet.size_bytes <= most[number % 2]


@pytest.mark.parametrize("density", [0.01, 0.25, 1.0])
def test_a_plan_counts_what_travels_at_every_rank(density: float) -> None:
    """At each rank of 12 at least what is really sent, and at most 700 bytes more, for names and wide numbers."""
    rule, widest = Flasc(density, density / 2), random_update(1, rank=12)
    down, up = downlink_traffic(rule, CODEC, widest, 3), uplink_traffic(rule, CODEC, widest, 3)
    for rank in range(1, 13):
        state = random_update(2, rank=rank, scale=1 / rank)
        order = rule.dispatch(state, 0, AdapterSize(rank, 1 / rank), 0)
        sent = CODEC.encode(order, rule.gets(1)).size_bytes
        assert 8 * sent <= down.bits_fixed + rank * down.bits_per_rank <= 8 * (sent + 700)
        reply, _ = rule.send(rule.receive(order, None), replace(state, metrics={"steps": 9.0, "train_loss": 0.5}), None)
        sent = CODEC.encode(reply, rule.sends(1)).size_bytes
        assert 8 * sent <= up.bits_fixed + rank * up.bits_per_rank <= 8 * (sent + 700)


def test_a_plan_that_changes_the_rank_is_followed(tiny_bert: Path) -> None:
    """Devices draw the initial adapter at the global rank, and train what they are sent at the round's own."""
    plan = {"policy": "joint", "deadline_s": 60.0, "count": "sent"}
    recipe = planned(tiny_bert, plan, federation={"rule": "flasc", "rounds": 3}, training={"local_steps": 1})
    rounds = list(run(tiny_simulation(recipe, None)))[1:]
    ranks = [result.record.rank for result in rounds]
    assert len(set(ranks)) > 1, "the channel must change the rank, or this test shows little"
    for rank, result in zip(ranks, rounds, strict=True):
        assert [device.refused for device in result.devices] == [None] * 3
        assert {len(factors.a) for factors in result.state.factors.values()} == {rank}


def test_a_run_is_that_of_the_dense_twin(tiny_bert: Path) -> None:
    """Two rounds of real training: the same client trains from dense masked factors, by the twin's own arithmetic."""
    made, other = simulation(tiny_bert), simulation(tiny_bert)
    found = made.rule.adapter(list(islice(run(made), 3))[-1].state)
    state = other.initial
    for number in (1, 2):
        start = dense_top(state, 0.25)
        ends = [other.client.train(Task(start), other.train, part, number, n) for n, part in enumerate(other.parts)]
        ends = [replace(end, weight=sum(WEIGHTS) / 3) for end in ends]  # the parts are of one size
        state = twin_round(state, ends, 0.25, 0.25)
    for name, tensor in named_tensors(found).items():
        torch.testing.assert_close(tensor, named_tensors(state)[name], rtol=1e-5, atol=1e-6)


def with_values(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda extra: {**extra, "values": change(extra["values"])}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda extra: extra, None),
        (lambda extra: {}, "positions: got nothing"),
        (lambda extra: {"positions": extra["positions"]}, "extra tensors"),
        (lambda extra: {**extra, "stray": torch.zeros(2)}, "extra tensors"),
        (lambda extra: {**extra, "positions": extra["positions"][1:]}, "positions: got"),
        (lambda extra: {**extra, "positions": extra["positions"] * 0}, "positions: 0 bits are set"),
        (with_values(lambda values: values[1:]), "extra tensors"),
        (with_values(Tensor.double), "extra tensors"),
        (with_values(lambda values: values * math.nan), "extra values is not finite"),
    ],
)
def test_what_a_device_may_not_send_is_refused_and_the_round_goes_on(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str | None, tiny_bert: Path
) -> None:
    made = simulation(tiny_bert)
    link, samples = Spoiled(link_of(made), spoil, made.initial), [len(part) for part in made.parts]
    size = made.recipe.adapter.size
    whole = Federation(made.rule, made.codec, link, made.score, samples, 3, 0, size, [made.recipe.adapter.rank] * 3)
    result = run_round(whole, initial_result(whole, made.initial).state, 1)
    assert [device.refused is not None for device in result.devices] == [False, reason is not None, False]
    assert reason is None or reason in (result.devices[1].refused or "")
    assert not same_bits(made.rule.adapter(result.state), made.initial)


# The recipe


def faults(*overrides: str) -> list[tuple[str, str]]:
    recipe = parse_recipe("", [f"federation.{words}" for words in overrides])
    return [(fault.key, fault.remedy) for fault in rule_faults(recipe)]


def test_densities_are_read_by_flasc_alone() -> None:
    assert faults("rule=flasc", "download_density=0.5", "upload_density=1.0", "server_optimizer=adam") == []
    remedy = "rule = 'fedavg' does not read it; remove it, or choose flasc"
    assert faults("upload_density=0.5") == [("federation.upload_density", remedy)]
    assert faults("download_density=0.5") == [("federation.download_density", remedy)]
