"""Rounds with a plan: what is planned, what is charged, who is left out. Numbers are worked out again from equations 1–12."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedfit.core.update import Job
from fedfit.errors import TrainingStopped
from fedfit.fleet_settings import DeviceSettings
from fedfit.plans import Charge
from fedfit.records import DeviceRecord, RoundResult
from fedfit.settings import Recipe
from tests.builders import HIDDEN, same_bits, tiny_experiment, tiny_recipe

SAMPLES = 16
"""Of each of the three devices."""
MATRICES = 2 * 2
"""Query and value of the last two layers."""
PRODUCTS = HIDDEN * HIDDEN * MATRICES
SUMS = 2 * HIDDEN * MATRICES


def planned(folder: Path, plan: dict[str, Any], rank: int = 8, **sections: Any) -> Recipe:
    """A tiny recipe whose devices do a million cycles a second, send 10 kbit/s, and have a joule."""
    fleet = {
        "max_frequency_hz": 1e6,
        "capacitance": 1e-18,  # Ω·f³ = 1 W at full speed
        "energy_budget_j": 100.0,
        "circuit_energy_j": 0.01,
        "transmit_power_w": 0.1,
        "downlink_power_w": 0.1,
        "uplink_bandwidth_hz": 1e4,
        "downlink_bandwidth_hz": 1e4,
        "uplink_gain": 1e-9,
        "downlink_gain": 1e-9,
        "noise_w": 1e-10,  # a ratio of 1, so 1 bit/s/Hz
    }
    sections = {"federation": {"rounds": 3}, "channel": {"fading": "rayleigh"}, **sections}
    fleet |= sections.pop("fleet", {})
    return tiny_recipe(folder, adapter={"rank": rank, "alpha": 16.0}, plan=plan, fleet=fleet, **sections)


def results(recipe: Recipe, cache: Path | None = None) -> list[RoundResult]:
    return list(tiny_experiment(recipe, cache).run())


def formula(rank: int, record: DeviceRecord, power_w: float = 0.1, capacitance: float = 1e-18) -> Charge[float]:
    """Equations 1 to 9, with the rates that the record says."""
    assert record.cost is not None
    frequency, link = record.cost.frequency_hz, record.cost.link
    cycles = (2 * rank - 1) * PRODUCTS * record.samples
    bits = rank * SUMS * 32
    return Charge(
        compute_s=cycles / frequency,
        uplink_s=bits / link.uplink_bits_per_s,
        downlink_s=bits / link.downlink_bits_per_s,
        compute_j=capacitance * cycles * frequency**2,
        uplink_j=power_w * bits / link.uplink_bits_per_s,
        circuit_j=0.01,
    )


def close(left: Charge[float], right: Charge[float]) -> None:
    for name in Charge.__dataclass_fields__:
        assert getattr(left, name) == pytest.approx(getattr(right, name), rel=1e-12), name


def highest(record: DeviceRecord, deadline_s: float, budget_j: float, cap: int) -> int:
    """The device's own highest rank: every rank, tried at the slowest frequency that is in time."""
    assert record.cost is not None
    best, link = 0, record.cost.link
    for rank in range(1, cap + 1):
        bits, cycles = rank * SUMS * 32, (2 * rank - 1) * PRODUCTS * record.samples
        left = deadline_s - bits / link.uplink_bits_per_s - bits / link.downlink_bits_per_s
        if left <= 0 or cycles / left > 1e6:
            continue
        energy = 1e-18 * cycles * (cycles / left) ** 2 + 0.1 * bits / link.uplink_bits_per_s + 0.01
        best = rank if energy <= budget_j else best
    return best


def test_joint_takes_the_highest_rank_that_all_can_do_and_charges_by_the_equations(tiny_bert: Path) -> None:
    recipe = planned(tiny_bert, {"policy": "joint", "deadline_s": 10.0, "count": "formula"})
    rounds = results(recipe)[1:]
    ranks = [result.record.rank for result in rounds]
    assert len(set(ranks)) > 1, "the channel must change the rank, or this test shows little"
    for result in rounds:
        own = [highest(device, 10.0, 100.0, 8) for device in result.devices]
        common = min(rank for rank in own if rank)
        assert result.record.rank == common
        assert [device.rank for device in result.devices] == [common if rank else 0 for rank in own]
        assert [device.refused is None for device in result.devices] == [rank > 0 for rank in own]
        for device in (device for device in result.devices if device.rank):
            assert device.cost is not None
            close(device.cost.formula, formula(common, device))
            assert device.cost.formula.latency_s == pytest.approx(10.0, rel=1e-9)  # the least energy: just in time
            assert device.cost.formula.latency_s <= 10.0
            assert device.cost.spent_j == device.cost.formula.energy_j
        assert result.record.simulated_s == max(d.cost.formula.latency_s for d in result.devices if d.cost)
        assert result.record.simulated_j == pytest.approx(sum(d.cost.spent_j for d in result.devices if d.cost))


def test_the_second_charge_is_by_the_bytes_that_were_sent(tiny_bert: Path) -> None:
    recipe = planned(tiny_bert, {"policy": "joint", "deadline_s": 10.0, "count": "formula"})
    for result in results(recipe)[1:]:
        for device in result.devices:
            assert device.cost is not None
            link, sent = device.cost.link, device.cost.sent
            assert sent.uplink_s == pytest.approx(8 * device.uplink_bytes / link.uplink_bits_per_s, rel=1e-12)
            assert sent.downlink_s == pytest.approx(8 * device.downlink_bytes / link.downlink_bits_per_s, rel=1e-12)
            assert sent.uplink_j == pytest.approx(0.1 * sent.uplink_s, rel=1e-12)
            assert sent.compute_s == device.cost.formula.compute_s


def test_planned_by_what_is_sent_nobody_is_late_and_little_is_wasted(tiny_bert: Path) -> None:
    """The head and the packets' own bytes are planned for; what is left of the deadline is air time of 400 bytes at most."""
    recipe = planned(tiny_bert, {"policy": "joint", "deadline_s": 200.0, "count": "sent"}, federation={"rounds": 4})
    lines = [device for result in results(recipe) for device in result.devices]
    assert len(lines) == 12
    for device in lines:
        assert device.cost is not None
        assert device.refused is None
        link = device.cost.link
        spare_s = 8 * 400 * (1 / link.uplink_bits_per_s + 1 / link.downlink_bits_per_s)
        assert 200 - spare_s < device.cost.sent.latency_s <= 200


def test_channels_are_redrawn_each_round_and_are_the_same_for_every_policy(tiny_bert: Path) -> None:
    def gains(policy: str) -> list[float]:
        recipe = planned(tiny_bert, {"policy": policy, "deadline_s": 30.0, "count": "formula"})
        lines = [device for result in results(recipe) for device in sorted(result.devices, key=lambda line: line.device)]
        return [device.cost.link.uplink_gain for device in lines if device.cost]

    joint = gains("joint")
    assert len(set(joint)) == 9
    assert joint == gains("joint") == gains("random_frequency") == gains("fixed")


def test_random_frequency_is_drawn_and_never_beats_the_joint_choice(tiny_bert: Path) -> None:
    limits = {"deadline_s": 10.0, "count": "formula"}
    joint = results(planned(tiny_bert, {"policy": "joint", **limits}))[1:]
    drawn = results(planned(tiny_bert, {"policy": "random_frequency", "random_frequency_low": 0.5, **limits}))[1:]
    frequencies = [device.cost.frequency_hz for result in drawn for device in result.devices if device.cost]
    taken = [frequency for frequency in frequencies if frequency]
    assert len(set(taken)) == len(taken) > 0
    assert all(0.5e6 <= frequency <= 1e6 for frequency in taken)
    for mine, other in zip(joint, drawn, strict=True):
        assert (other.record.rank or 0) <= (mine.record.rank or 0)


def test_who_misses_the_deadline_is_charged_and_left_out_of_the_average(tiny_bert: Path) -> None:
    """Device 1 alone has a CPU a thousand times slower than its rank asks for."""
    devices = (DeviceSettings(), DeviceSettings(max_frequency_hz=1e3), DeviceSettings())
    plan, still = {"policy": "fixed", "deadline_s": 60.0}, {"fading": "none"}
    recipe = planned(tiny_bert, plan, federation={"rounds": 1}, channel=still, device=devices)
    start, after = results(recipe)
    assert [device.refused is None for device in after.devices] == [True, False, True]
    late = after.devices[1]
    assert late.refused is not None
    assert late.refused.startswith("missed the deadline: ")
    assert late.uplink_bytes > 0  # it did send, too late
    assert late.cost is not None
    assert late.cost.spent_j == late.cost.sent.energy_j > 0
    assert late.cost.binding == "frequency"
    assert after.record.simulated_s == 60.0  # the server waits no longer
    assert after.record.refused == 1

    alone = tiny_experiment(
        replace(recipe, plan=Recipe().plan, fleet=Recipe().fleet, device=(), channel=Recipe().channel), None
    )
    samples, job = alone.parts.train, Job(start.state.adapter)
    trained = [alone.trainer.train(job, samples, alone.parts.held[device], 1, device) for device in (0, 2)]
    assert same_bits(after.state.adapter, alone.rule.server.apply(start.state, trained).adapter)


def test_no_energy_to_send_at_the_fixed_rank(tiny_bert: Path) -> None:
    """Left out before anything is computed or sent; without a battery nothing is charged for it."""
    plan = {"policy": "fixed", "energy_budget_j": 0.05, "count": "formula"}
    _, after = results(planned(tiny_bert, plan, federation={"rounds": 1, "max_failed_rounds": 2}))
    for device in after.devices:
        assert device.refused is not None
        assert device.refused.startswith("circuit and uplink alone take ")
        assert device.refused.endswith(" J at rank 8, and 0.05 J may be spent")
        assert (device.steps, device.uplink_bytes, device.downlink_bytes) == (0, 0, 0)
        assert device.cost is not None
        assert device.cost.spent_j == 0


def test_too_little_energy_for_the_deadline_makes_a_device_late_and_costs_all_it_has(tiny_bert: Path) -> None:
    """Without fading, at rank 8: 15·4096·16 cycles ask for f = 983,040 / (30 − 2·6.5536) s and 0.98 J at 1 MHz; 0.8 J are left
    when 0.65536 J have gone to the radio and 0.01 J to the circuit of 1.4 J: f_hi < f_lo."""
    plan = {"policy": "fixed", "energy_budget_j": 0.7, "deadline_s": 16.0, "count": "formula"}
    _, after = results(planned(tiny_bert, plan, channel={"fading": "none"}, federation={"rounds": 1, "max_failed_rounds": 2}))
    for device in after.devices:
        assert device.refused is not None
        assert device.refused.startswith("missed the deadline: ")
        assert device.cost is not None
        assert device.cost.spent_j == pytest.approx(0.7, rel=1e-9)
        assert device.cost.formula.energy_j == pytest.approx(0.7, rel=1e-9)


def test_a_battery_empties_and_its_device_is_then_left_out(tiny_bert: Path) -> None:
    """Each round costs the same, and the battery holds two and a half: in the third the radio alone asks for more. From then on
    the circuit takes its 0.01 J a round.
    """
    plan = {"policy": "fixed", "count": "formula", "deadline_s": 30.0}
    free = results(planned(tiny_bert, plan, channel={"fading": "none"}, federation={"rounds": 1}))[1]
    assert free.devices[0].cost is not None
    cost = free.devices[0].cost.formula.energy_j
    devices = (DeviceSettings(battery_j=2 * cost + 0.015),)
    recipe = planned(tiny_bert, plan, channel={"fading": "none"}, federation={"rounds": 5}, device=devices)
    lines = [next(line for line in result.devices if line.device == 0) for result in results(recipe)[1:]]
    assert [line.refused is None for line in lines] == [True, True, False, False, False]
    assert (lines[2].refused or "").startswith("the battery holds 0.015 J: circuit and uplink alone take ")
    assert lines[4].refused == "the battery is empty"
    spent = [line.cost.spent_j for line in lines if line.cost]
    assert spent == pytest.approx([cost, cost, 0.01, 0.005, 0])
    assert [line.downlink_bytes > 0 for line in lines] == [True, True, False, False, False]


def test_joint_plans_with_what_the_battery_still_holds(tiny_bert: Path) -> None:
    """A battery of one budget: the second round has what the first left, and no round overspends."""
    devices = (DeviceSettings(battery_j=1.0),)
    plan = {"policy": "joint", "deadline_s": 60.0, "energy_budget_j": 0.7, "count": "formula"}
    lines = [result.devices[0] for result in results(planned(tiny_bert, plan, federation={"rounds": 5}, device=devices))[1:]]
    assert sum(line.cost.spent_j for line in lines if line.cost) <= 1.0
    assert not any("ran empty" in (line.refused or "") for line in lines)


def test_a_device_that_cannot_do_rank_1_is_left_out_and_the_others_go_on(tiny_bert: Path) -> None:
    devices = (DeviceSettings(), DeviceSettings(uplink_bandwidth_hz=1.0))
    plan = {"policy": "joint", "deadline_s": 60.0}
    _, after = results(planned(tiny_bert, plan, federation={"rounds": 1}, device=devices))
    unable = next(device for device in after.devices if device.device == 1)
    assert unable.refused is not None
    assert "cannot do rank 1" in unable.refused
    assert "the least that would do: " in unable.refused
    assert (unable.rank, unable.uplink_bytes, unable.downlink_bytes) == (0, 0, 0)
    assert unable.cost is not None
    assert unable.cost.spent_j == 0
    assert after.record.rank is not None
    assert after.record.refused == 1


def test_when_nobody_can_the_model_stays_and_the_run_stops(tiny_bert: Path) -> None:
    recipe = planned(tiny_bert, {"policy": "joint", "deadline_s": 1e-3}, federation={"rounds": 9, "max_failed_rounds": 2})
    rounds = tiny_experiment(recipe, None).run()
    seen = [next(rounds) for _ in range(3)]
    with pytest.raises(TrainingStopped, match="cannot do rank 1"):
        next(rounds)
    assert [result.record.round for result in seen] == [0, 1, 2]
    assert same_bits(seen[0].state.adapter, seen[2].state.adapter)
    assert seen[2].record.rank is None
    assert seen[2].record.simulated_s == 0


def test_each_device_at_its_own_rank(tiny_bert: Path) -> None:
    recipe = planned(
        tiny_bert,
        {"policy": "per_device", "deadline_s": 10.0, "count": "formula"},
        federation={"rounds": 3, "rule": "flexlora"},
        device=(DeviceSettings(max_frequency_hz=1e5), DeviceSettings(), DeviceSettings(uplink_bandwidth_hz=3e3)),
    )
    for result in results(recipe)[1:]:
        assert result.record.rank is None
        ranks = [device.rank for device in result.devices]
        assert len(set(ranks)) > 1
        sizes = {device.rank: device.uplink_bytes for device in result.devices if device.rank is not None}
        assert sorted(sizes, key=lambda rank: sizes[rank]) == sorted(sizes)  # a higher rank sends more
        assert {len(pair.a) for pair in result.state.adapter.factors.values()} == {8}


def test_flops_count_the_trunk_once_for_each_device(tiny_bert: Path, tmp_path: Path) -> None:
    """The first round of a device computes its trunk, the next ones read it; without a cache every round computes it."""
    plan = {"policy": "fixed", "compute": "flops", "frequency": "fastest"}

    def seconds(cache: Path | None) -> list[float]:
        settings = {"enabled": cache is not None}
        recipe = planned(tiny_bert, plan, federation={"rounds": 2}, trunk_cache=settings, fleet={"energy_budget_j": 1e9})
        rounds = results(recipe, cache)[1:]
        return [result.devices[0].cost.formula.compute_s for result in rounds if result.devices[0].cost]

    cold, warm = seconds(tmp_path / "cache")
    assert warm < cold
    assert seconds(None) == pytest.approx([cold, cold], rel=1e-9)


def test_maps_of_the_embeddings_count_in_every_round_where_no_layer_is_below_the_cut(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """ELECTRA maps 24 numbers of each token to the hidden state. Nothing is cached with ``all`` layers adapted."""
    counts = []
    for cache in (tmp_path / "cache", None):
        recipe = tiny_recipe(tiny_models["electra"], adapter={"layers": "all"}, plan={"policy": "fixed", "compute": "flops"})
        clock = tiny_experiment(
            replace(recipe, trunk_cache=replace(recipe.trunk_cache, enabled=cache is not None)), cache
        ).clock
        assert clock is not None
        assert not clock.work.trunk_cycles.any()
        counts.append(clock.work.formula.cycles_fixed.tolist())
    assert counts[0] == counts[1]


def test_memory_of_the_clock_comes_back_from_the_lines(tiny_bert: Path) -> None:
    recipe = planned(tiny_bert, {"policy": "joint", "deadline_s": 30.0}, device=(DeviceSettings(battery_j=50.0),))
    made = tiny_experiment(recipe, None)
    lines: Sequence[DeviceRecord] = [device for result in made.run() for device in result.devices]
    restored = tiny_experiment(recipe, None).clock
    assert restored is not None
    assert made.clock is not None
    restored.restore([DeviceRecord.from_json(line.to_json()) for line in lines])
    assert restored.spent_j.tolist() == made.clock.spent_j.tolist()
    assert restored.spent_j[0] > 0
    assert restored.computed_trunk.all()
    assert math.isclose(sum(restored.spent_j), sum(line.cost.spent_j for line in lines if line.cost))
