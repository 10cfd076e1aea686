"""``federation.ranks``: listed or drawn, and each bad input refused with its reason."""

from pathlib import Path

import pytest

from fedfit.aggregation.table import RULES
from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate, validate_offline
from fedfit.settings import Recipe
from fedfit.simulation.ranks import device_ranks
from tests.builders import tiny_experiment, tiny_recipe

MIXED = [name for name, entry in RULES.items() if entry.traits().mixed_ranks]
SINGLE = [name for name in RULES if name not in MIXED]
NEEDED = {
    "scaffold": ("training.optimizer=sgd",),
    "krum": ("federation.krum.byzantine=0",),
    "norm_bound": ("federation.norm_bound.bound=1.0",),
}
"""What else the recipe of a rule must say."""


def recipe(*overrides: str, rule: str = "flexlora", rank: int = 8) -> Recipe:
    return parse_recipe("", [f"federation.rule={rule}", f"adapter.rank={rank}", *NEEDED.get(rule, ()), *overrides])


def remedies(made: Recipe) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for fault in validate_offline(made):
        found.setdefault(fault.key, []).append(fault.remedy)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_without_a_word_all_devices_have_the_global_rank(rule: str) -> None:
    made = recipe("federation.devices=5", rule=rule)
    assert device_ranks(made) == [8] * 5
    assert remedies(made) == {}


@pytest.mark.parametrize("rule", MIXED)
def test_a_list_is_by_device(rule: str) -> None:
    made = recipe("federation.devices=5", "federation.ranks=[2, 4, 8, 8, 1]", rule=rule)
    assert remedies(made) == {}
    assert device_ranks(made) == [2, 4, 8, 8, 1]


@pytest.mark.parametrize(
    ("draw", "reachable"),
    [
        ("{uniform=[2, 5]}", {2, 3, 4, 5}),
        ("{choice=[1, 2, 4]}", {1, 2, 4}),
        ("{loguniform=[1, 8]}", set(range(1, 9))),
        ("{uniform=[8, 8]}", {8}),
        ("{lognormal=[4, 2]}", set(range(1, 9))),  # far below 1 and far above 8 in its tails: cut at both
    ],
)
def test_drawn_ranks_are_whole_numbers_from_1_to_the_global_one(draw: str, reachable: set[int]) -> None:
    made = recipe("federation.devices=300", f"federation.ranks={draw}")
    assert remedies(made) == {}
    drawn = device_ranks(made)
    # Of eight values at least 2 % each, 300 draws miss one with a probability of at most 8 · 0.98^300 = 2 %, and the seed is 0.
    assert set(drawn) == reachable
    assert all(type(rank) is int for rank in drawn)
    assert len(drawn) == 300
    assert drawn == device_ranks(made)
    other = device_ranks(recipe("federation.devices=300", f"federation.ranks={draw}", "seed=1"))
    assert (drawn == other) == (len(reachable) == 1)


def test_a_draw_is_by_device_and_not_by_round(tiny_bert: Path) -> None:
    """A run sends each device its own rank in every round: fewer numbers down and up for a lower one."""
    ranks = (1, 2, 4)
    made = tiny_experiment(
        tiny_recipe(tiny_bert, federation={"rule": "flexlora", "ranks": ranks, "rounds": 2}, adapter={"rank": 4, "alpha": 4.0}),
        None,
    )
    sizes = {device.device: set[int]() for result in made.run() for device in result.devices}
    lines = [device for result in made.run() for device in result.devices]
    for line in lines:
        sizes[line.device].add(line.downlink_bytes)
    # 4 matrices of 32 → 32: a rank more is 4 · (32 + 32) numbers of 4 bytes; headers differ by a few digits.
    (one,), (two,), (four,) = (sizes[device] for device in range(3))
    assert two - one == pytest.approx(1024, abs=64)
    assert four - two == pytest.approx(2048, abs=64)


@pytest.mark.parametrize("ranks", ["[1, 2, 3]", "{uniform=[1, 4]}", "{choice=[1, 8]}"])
def test_it_survives_being_written_out(ranks: str) -> None:
    made = recipe(f"federation.ranks={ranks}")
    assert parse_recipe(to_toml(made)) == made


@pytest.mark.parametrize("rule", SINGLE)
@pytest.mark.parametrize("ranks", ["[8, 8, 8]", "{uniform=[1, 8]}"])
def test_a_rule_of_one_rank_does_not_take_them(rule: str, ranks: str) -> None:
    able = ", ".join(MIXED)
    assert remedies(recipe(f"federation.ranks={ranks}", rule=rule)) == {
        "federation.ranks": [f"{rule} averages one rank; choose {able}, or remove it"]
    }


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        ("[1, 2]", "there are 3 devices; give each its rank"),
        ("[1, 2, 3, 4]", "there are 3 devices; give each its rank"),
        ("[]", "there are 3 devices; give each its rank"),
        ("[1, 2, 9]", "adapter.rank = 8 is the global one, and no device can have more; raise it"),
        ("{uniform=[1, 9]}", "adapter.rank = 8 is the global one, and no device can have more; raise it"),
        ("{choice=[1, 9, 2]}", "adapter.rank = 8 is the global one, and no device can have more; raise it"),
        ("{lognormal=[9, 1]}", "adapter.rank = 8 is the global one, and no device can have more; raise it"),
        ("[0, 1, 2]", "must be at least 1"),
        ("[-3, 1, 2]", "must be at least 1"),
        ("{uniform=[0, 4]}", "must be at least 1"),
        ("{choice=[4, 0]}", "must be at least 1"),
        ("{uniform=[4, 2]}", "the first end must not be above the second"),
    ],
)
def test_each_fault_has_its_reason(ranks: str, reason: str) -> None:
    assert remedies(recipe(f"federation.ranks={ranks}")) == {"federation.ranks": [reason]}


@pytest.mark.parametrize(
    "ranks", ["4", "'all'", "[1.5, 2, 3]", "['1', 2, 3]", "[true, 2, 3]", "{normal=[1, 2]}", "{uniform=[1]}"]
)
def test_what_is_no_list_and_no_draw_is_refused(ranks: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(f"federation.ranks={ranks}")
    assert {fault.key.split("[")[0] for fault in caught.value.faults} == {"federation.ranks"}


@pytest.mark.parametrize("policy", ["joint", "per_device", "random_frequency"])
def test_a_plan_that_gives_ranks_and_ranks_are_one_too_many(policy: str) -> None:
    found = remedies(recipe("federation.ranks=[1, 2, 3]", f"plan.policy={policy}"))
    assert f"the plan gives the ranks (plan.policy = '{policy}'); remove one" in found["federation.ranks"]


def test_a_fixed_plan_charges_the_ranks_that_are_given(tiny_bert: Path) -> None:
    """Eq. 5 and 4: a device's uplink takes bits ∝ its rank; the common rank is none."""
    made = tiny_experiment(
        tiny_recipe(
            tiny_bert,
            federation={"rule": "flexlora", "ranks": (1, 2, 4), "rounds": 1},
            adapter={"rank": 4},
            plan={"policy": "fixed", "count": "formula"},
        ),
        None,
    )
    last = list(made.run())[-1]
    assert last.record.rank is None
    assert [device.rank for device in last.devices] == [1, 2, 4]
    costs = [device.cost for device in last.devices]
    bits = [cost.formula.uplink_s * cost.link.uplink_bits_per_s for cost in costs if cost is not None]
    assert bits == pytest.approx([bits[0], 2 * bits[0], 4 * bits[0]])


@pytest.mark.parametrize("rule", [name for name, entry in RULES.items() if entry.traits().fixed_rank])
@pytest.mark.parametrize("policy", ["joint", "random_frequency"])
def test_a_rule_of_a_fixed_rank_takes_no_plan_that_moves_it(rule: str, policy: str) -> None:
    found = remedies(recipe(f"plan.policy={policy}", rule=rule))
    assert f"{rule} needs one rank from first to last; choose fixed" in found["plan.policy"]
    fixed = remedies(recipe("plan.policy=fixed", rule=rule))
    assert not any("from first to last" in reason for reasons in fixed.values() for reason in reasons)


def test_all_faults_at_once(tiny_bert: Path) -> None:
    made = recipe("federation.ranks=[0, 9]", f"model.name={tiny_bert}")
    with pytest.raises(RecipeError) as caught:
        validate(made)
    told = [fault.remedy for fault in caught.value.faults]
    assert len(told) == 3
    assert {fault.key for fault in caught.value.faults} == {"federation.ranks"}


@pytest.mark.parametrize(
    ("ratios", "ranks"),
    [
        ("[0.125, 0.5, 1]", [2, 8, 16]),
        ("[0.01, 0.3, 0.99]", [1, 5, 16]),  # 0.16 → 1 at least; 4.8 → 5; 15.84 → 16
        ("{choice = [0.25]}", [4, 4, 4]),
    ],
)
@pytest.mark.parametrize("rule", MIXED)
def test_a_share_is_of_the_global_rank(ratios: str, ranks: list[int], rule: str) -> None:
    made = recipe(f"federation.rank_shares={ratios}", rule=rule, rank=16)
    assert remedies(made) == {}
    assert device_ranks(made) == ranks
    assert parse_recipe(to_toml(made)) == made


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (("federation.rank_shares=[0, 0.5, 1]",), "each must be above 0 and at most 1"),
        (("federation.rank_shares=[0.5, 0.5, 1.5]",), "each must be above 0 and at most 1"),
        (("federation.rank_shares={uniform = [0, 1]}",), "must be above 0"),
        (("federation.rank_shares={choice = [0.5, 2]}",), "must be at most 1"),
        (("federation.rank_shares=[0.5, 1]",), "there are 3 devices"),
        (("federation.rank_shares=[0.5, 1, 1]", "federation.ranks=[1, 2, 3]"), "federation.ranks gives the ranks already"),
        (("federation.rank_shares=[0.5, 1, 1]", "plan.policy=per_device"), "the plan gives the ranks"),
    ],
)
def test_a_share_that_makes_no_sense_is_reported(overrides: tuple[str, ...], remedy: str) -> None:
    assert any(remedy in said for said in remedies(recipe(*overrides, rule="fslora"))["federation.rank_shares"])


@pytest.mark.parametrize("rule", SINGLE)
def test_a_rule_of_one_rank_takes_no_shares(rule: str) -> None:
    assert remedies(recipe("federation.rank_shares=[0.5, 1, 1]", rule=rule)) == {
        "federation.rank_shares": [f"{rule} averages one rank; choose {', '.join(MIXED)}, or remove it"]
    }


def test_a_plan_charges_the_shares(tiny_bert: Path) -> None:
    federation = {"rule": "fslora", "rank_shares": (0.25, 0.5, 1.0), "rounds": 1}
    made = tiny_experiment(tiny_recipe(tiny_bert, federation=federation, adapter={"rank": 4}, plan={"policy": "fixed"}), None)
    assert [device.rank for device in list(made.run())[-1].devices] == [1, 2, 4]
