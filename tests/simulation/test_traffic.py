"""What plans count with in each direction, against what is really sent, over the whole table of rules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedfit.aggregation.rules.flasc import FlascKeys
from fedfit.aggregation.rules.hetlora_pruning import PruningKeys
from fedfit.aggregation.rules.slora import SloraKeys
from fedfit.aggregation.table import RULES
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import LORA_A, LORA_B, Factors
from fedfit.experiment.build import Experiment
from fedfit.settings import TransportSettings
from fedfit.simulation.traffic import Traffic, downlink_traffic, overhead_bytes, uplink_traffic
from tests.builders import tiny_experiment, tiny_recipe

from .test_clock import planned

ROUNDS = 4
FRAMING_BYTES = 800
"""Headers of packets are planned for numbers and names as wide as any can be."""
NAMING_BYTES = {"flora": 3200, "fedex_lora": 3200}
"""400 bytes for each of two names of the four modules, whatever the names are."""

CASES: dict[str, Mapping[str, Any]] = {
    **{name: {"rule": name} for name in RULES},
    "flora": {"rule": "flora", "devices_per_round": 1},  # who lacks more than one round gets the whole difference
    "fedex_lora": {"rule": "fedex_lora", "devices_per_round": 1},
    "unequal densities": {"rule": "flasc", "options": {"flasc": FlascKeys(0.5, 0.05)}},
    "dense mask": {"rule": "slora", "options": {"slora": SloraKeys(density=0.7)}},
    "hetlora_pruning": {"rule": "hetlora_pruning", "options": {"hetlora_pruning": PruningKeys(0.5)}},
    "server optimizer": {"rule": "rolora", "server_optimizer": "adam"},
    **{name: {"rule": name} for name in ("median", "trimmed_mean", "norm_bound")},
}
del CASES["krum"]  # needs more devices; its packets are FedAvg's
ALIKE = sorted({*CASES} - {"rolora", "server optimizer", "flora", "fedex_lora", "unequal densities", "hetlora_pruning"})
"""Cases whose packets have the same groups in both directions."""


PLAIN = TransportSettings()
CHAINS = {
    "top_k": TransportSettings(("delta", "top_k:0.1", "quantize:4"), ("bf16",), error_feedback=True),
    "low_rank": TransportSettings(("delta", "low_rank:1", "quantize:8"), ("quantize:8", "zstd")),
    "fedobd": TransportSettings(("delta", "fedobd:0.2", "zstd"), ("bf16",)),
}
FLOATS = ("slora", "dense mask", "scaffold")
"""Variates, and factors that may be sparse, are planned as float32, whatever a chain then makes of them."""
BY_SHAPES = [(case, PLAIN) for case in CASES] + [(case, CHAINS["top_k"]) for case in CASES if case not in FLOATS]
BY_NUMBERS = [(case, CHAINS["top_k"]) for case in FLOATS] + [
    (case, CHAINS[name]) for name in ("low_rank", "fedobd") for case in ("fedavg", "flora", "scaffold")
]


def federation(folder: Path, case: str, transport: TransportSettings = PLAIN) -> Experiment:
    """Three devices; at ranks 4, 2 and 1 where the rule allows it."""
    keys = dict(CASES[case])
    mixed = RULES[keys["rule"]].traits().mixed_ranks
    training = {"local_steps": 1, "optimizer": "sgd" if case == "scaffold" else "adamw"}
    federation = {"rounds": ROUNDS, **keys, **({"ranks": (4, 2, 1)} if mixed else {})}
    return tiny_experiment(
        tiny_recipe(
            folder,
            adapter={"rank": 4, "alpha": 8.0},
            federation=federation,
            training=training,
            transport=transport,
        ),
        None,
    )


def both(made: Experiment) -> tuple[Traffic, Traffic]:
    down = downlink_traffic(made.rule, made.federation.downlink, made.initial, ROUNDS)
    return down, uplink_traffic(made.rule, made.federation.uplink, made.initial, ROUNDS)


def bits(traffic: Traffic, rank: int) -> float:
    return traffic.bits_fixed + rank * traffic.bits_per_rank


@pytest.mark.parametrize(("case", "transport"), [*BY_SHAPES, *BY_NUMBERS])
def test_no_packet_is_larger_than_planned_and_the_largest_is_nearly_as_large(
    case: str, transport: TransportSettings, tiny_bert: Path
) -> None:
    """It is not near where the numbers decide how long a packet is."""
    made = federation(tiny_bert, case, transport)
    down, up = both(made)
    spare: dict[str, list[float]] = {"down": [], "up": []}
    for result in made.run():
        for line in result.devices:
            rank = (4, 2, 1)[line.device] if made.rule.traits.mixed_ranks else 4
            spare["down"].append(bits(down, rank) - 8 * line.downlink_bytes)
            spare["up"].append(bits(up, rank) - 8 * line.uplink_bytes)
    assert len(spare["up"]) == made.recipe.federation.devices_per_round * ROUNDS
    for way, left in spare.items():
        assert min(left) >= 0, f"{way} of {case}"
        if (case, transport) in BY_SHAPES:
            assert min(left) <= 8 * (FRAMING_BYTES + NAMING_BYTES.get(case, 0)), f"{way} of {case}"


@pytest.mark.parametrize("case", ALIKE)
def test_both_directions_of_a_symmetric_rule_are_those_of_the_joined_count_to_the_bit(case: str, tiny_bert: Path) -> None:
    """Parts of both directions and of all rounds together, and one extra for both: how the two were planned as one."""
    made = federation(tiny_bert, case)
    traits, server, initial = made.rule.traits, made.rule.server, made.initial
    each = [way(n, initial.present) for n in range(1, ROUNDS + 1) for way in (traits.uplink_groups, traits.downlink_groups)]
    groups = frozenset[str]().union(*each)
    whole = server.downlink_extra_bytes(initial)
    first = {name: Factors(pair.a[:1], pair.b[:, :1], pair.scale) for name, pair in initial.factors.items()}
    extra_per_rank = max(0.0, (whole - server.downlink_extra_bytes(initial.with_factors(first))) / 3)
    density = traits.downlink_density
    overhead = overhead_bytes(PlainCodec(), initial, groups, density) + (whole - 4 * extra_per_rank)
    numbers = sum(
        (len(pair.b) if LORA_B in groups else 0) + (pair.a.shape[1] if LORA_A in groups else 0)
        for pair in initial.factors.values()
    )
    numbers_bits = PlainCodec().bits_per_number(density) * float(numbers)
    joined = Traffic(8.0 * overhead, numbers_bits + 8.0 * extra_per_rank)
    assert both(made) == (joined, joined)


def test_who_sends_less_than_it_receives_plans_with_less(tiny_bert: Path) -> None:
    """FLoRA: fresh factors are drawn by the device, so what comes down is the catch-up, and up go the factors. FedEx-LoRA: the
    catch-up comes beside the factors. RoLoRA: one of the two square factors goes up.
    """
    numbers = sum(pair.a.shape[1] + len(pair.b) for pair in federation(tiny_bert, "fedavg").initial.factors.values())
    fedavg = both(federation(tiny_bert, "fedavg"))[1]
    for case in ("flora", "fedex_lora", "rolora"):
        made = federation(tiny_bert, case)
        down, up = both(made)
        assert up.bits_fixed <= fedavg.bits_fixed
        assert up.bits_per_rank == (16 if case == "rolora" else 32) * numbers
        assert down.bits_per_rank == (0 if case == "flora" else 32 * numbers)
        merged = sum(4 * len(pair.b) * pair.a.shape[1] for pair in made.initial.factors.values())
        assert (down.bits_fixed > 8 * merged) == (case != "rolora")


def test_without_a_packet_of_factors_the_rank_costs_nothing(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "local_only")
    down, up = both(made)
    assert (down.bits_per_rank, up.bits_per_rank) == (0, 0)
    assert not made.rule.traits.shares


@pytest.mark.parametrize("rule", ["rolora", "flora", "fedex_lora"])
def test_a_planned_run_has_room_for_each_direction(rule: str, tiny_bert: Path) -> None:
    """At the ranks that a joint plan gives, both directions keep to what was planned for them, and nobody is late."""
    plan = {"policy": "joint", "deadline_s": 200.0, "count": "sent"}
    still = {"fading": "none"}
    made = tiny_experiment(planned(tiny_bert, plan, federation={"rule": rule, "rounds": 3}, channel=still), None)
    assert made.clock is not None
    down, up = (way(made.rule, PlainCodec(), made.initial, 3) for way in (downlink_traffic, uplink_traffic))
    work = made.clock.work.sent
    assert (work.uplink_bits_fixed[0], work.uplink_bits_per_rank[0]) == (up.bits_fixed, up.bits_per_rank)
    assert (work.downlink_bits_fixed[0], work.downlink_bits_per_rank[0]) == (down.bits_fixed, down.bits_per_rank)
    lines = [line for result in made.run() for line in result.devices]
    assert len(lines) == 9
    for line in lines:
        assert line.refused is None
        assert line.rank
        assert 8 * line.uplink_bytes <= bits(up, line.rank)
        assert 8 * line.downlink_bytes <= bits(down, line.rank)
