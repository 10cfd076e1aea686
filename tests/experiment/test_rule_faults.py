"""Rules with their own keys, and server optimisers round them: what makes no sense together, and keys that nothing reads."""

import math
from pathlib import Path

import pytest

from fedfit.aggregation.contract import Context
from fedfit.aggregation.server_optimizer import with_server_optimizer
from fedfit.aggregation.table import RULES, make_rule
from fedfit.errors import Fault
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.rule_faults import able, rule_faults
from fedfit.experiment.validate import validate_offline
from fedfit.settings import Recipe

NEEDED = {
    "scaffold": ("training.optimizer=sgd",),
    "krum": ("federation.krum.byzantine=0",),
    "norm_bound": ("federation.norm_bound.bound=1.0",),
}
"""What else the recipe of a rule must say."""


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe("", [f"federation.{words}" for words in overrides])


def by_key(found: list[Fault]) -> dict[str, tuple[object, str]]:
    assert len({fault.key for fault in found}) == len(found), "a key is reported twice"
    return {fault.key.removeprefix("federation."): (fault.value, fault.remedy) for fault in found}


def faults(*overrides: str) -> dict[str, tuple[object, str]]:
    """Of the whole recipe, by key without its section."""
    return by_key(validate_offline(recipe_of(*overrides)))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_asked_for(rule: str) -> None:
    recipe = parse_recipe("", [f"federation.rule={rule}", *NEEDED.get(rule, ())])
    assert validate_offline(recipe) == []
    make_rule(recipe, 3)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rule=flexlora", "ranks=[2,4,8]"),
        *[("server_optimizer=sgd", f"rule={rule}", "server_learning_rate=0.5") for rule in ("fedavg", "ffa_lora", "rolora")],
        ("server_optimizer=momentum", "server_learning_rate=0.5", "server_momentum=0.5"),
        ("server_optimizer=adagrad", "server_momentum=0.0", "server_tau=0.1"),
        ("server_optimizer=adam", "server_learning_rate=0.01", "server_momentum=0.5", "server_beta2=0.9", "server_tau=0.1"),
        ("server_optimizer=yogi", "server_beta2=0.9", "rule=median"),
        ("rule=median",),
        ("rule=trimmed_mean", "trimmed_mean.trim=0.49"),
        ("rule=krum", "devices=5", "devices_per_round=5"),
        ("rule=krum", "devices_per_round=3", "krum.byzantine=0"),
        ("rule=krum", "devices=9", "devices_per_round=9", "krum.byzantine=3"),
        ("rule=norm_bound", "norm_bound.bound=0.5"),
        ("rule=hetlora_pruning", "hetlora_pruning.gamma=0.9", "hetlora_pruning.penalty=0.0"),
    ],
)
def test_what_fits_together_has_no_fault_and_can_be_built(overrides: tuple[str, ...]) -> None:
    assert faults(*overrides) == {}
    make_rule(recipe_of(*overrides), 3)


@pytest.mark.parametrize("rule", [name for name, entry in RULES.items() if not entry.traits().supports_server_optimizer])
def test_an_optimiser_needs_a_lasting_adapter(rule: str) -> None:
    recipe = parse_recipe("", [f"federation.rule={rule}", "federation.server_optimizer=adam", *NEEDED.get(rule, ())])
    value, remedy = by_key(validate_offline(recipe))["server_optimizer"]
    assert value == "adam"
    assert f"{rule} does not keep one adapter whose coordinates mean the same in the next round" in remedy
    able_ = remedy.split("choose rule ")[1].removesuffix(", or none").split(", ")
    assert able_ == [name for name, entry in RULES.items() if entry.traits().supports_server_optimizer]
    assert {"fedavg", "ffa_lora", "rolora"} <= set(able_)
    assert rule not in able_
    with pytest.raises(ValueError, match="the rule keeps no single adapter"):
        with_server_optimizer(RULES[rule].make(RULES[rule].default_keys(), Context(holders=3)), recipe.federation)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "norm_bound"])
def test_a_robust_mean_needs_one_rank(rule: str) -> None:
    """Factors of mixed ranks have no coordinates in common."""
    mixed = [name for name, entry in RULES.items() if entry.traits().mixed_ranks]
    words = [f"federation.rule={rule}", *NEEDED.get(rule, ())]
    found = by_key(validate_offline(parse_recipe("", [*words, "federation.ranks=[1,2,3]"])))
    assert found == {"ranks": ((1, 2, 3), f"{rule} averages one rank; choose {', '.join(mixed)}, or remove it")}
    (fault,) = rule_faults(parse_recipe("", [*words, "plan.policy=per_device"]))
    remedy = f"averages one rank; with plan.policy per_device choose {', '.join(mixed)}"
    assert (fault.key, fault.value, fault.remedy) == ("federation.rule", rule, remedy)


@pytest.mark.parametrize(("devices", "byzantine"), [(4, 1), (3, 1), (2, 0), (8, 3)])
def test_krum_needs_enough_devices(devices: int, byzantine: int) -> None:
    least = 2 * byzantine + 3
    assert faults("rule=krum", "devices=9", f"devices_per_round={devices}", f"krum.byzantine={byzantine}") == {
        "krum.byzantine": (
            byzantine,
            f"krum then needs at least 2·{byzantine} + 3 = {least} devices a round, and "
            f"federation.devices_per_round = {devices}; raise that, or lower it",
        )
    }


@pytest.mark.parametrize(
    ("rule", "key", "value", "remedy"),
    [
        ("trimmed_mean", "trim", 0.5, "must be at most 0.4999"),
        ("trimmed_mean", "trim", 0.9, "must be at most 0.4999"),
        ("trimmed_mean", "trim", -0.1, "must be at least 0"),
        ("trimmed_mean", "trim", math.inf, "must be a finite number"),
        ("krum", "byzantine", -1, "must be at least 0"),
        ("norm_bound", "bound", 0.0, "must be above 0"),
        ("norm_bound", "bound", -1.0, "must be above 0"),
        ("norm_bound", "bound", math.inf, "must be a finite number"),
        ("hetlora_pruning", "gamma", 1.0, "must be at most 0.9999"),
        ("hetlora_pruning", "gamma", 0.0, "must be above 0"),
        ("hetlora_pruning", "penalty", -0.1, "must be at least 0"),
        ("slora", "sparse_rounds", 0, "must be at least 1"),
        ("slora", "density", 1.5, "must be at most 1"),
        ("fslora", "sketch", "both", "choose one of per_module, shared"),
    ],
)
def test_each_key_of_a_rule_has_its_limits(rule: str, key: str, value: object, remedy: str) -> None:
    assert faults(f"rule={rule}", f"{rule}.{key}={value}") == {f"{rule}.{key}": (value, remedy)}


def test_a_norm_bound_must_be_given() -> None:
    remedy = "norm_bound needs the norm that a whole update may move by, for example federation.norm_bound.bound=1.0"
    assert faults("rule=norm_bound") == {"norm_bound.bound": (None, remedy)}


SET = {"server_learning_rate": 0.5, "server_momentum": 0.5, "server_beta2": 0.5, "server_tau": 0.5}
UNREAD = {
    "none": set(SET),
    "sgd": {"server_momentum", "server_beta2", "server_tau"},
    "momentum": {"server_beta2", "server_tau"},
    "adagrad": {"server_beta2"},
    "adam": set(),
    "yogi": set(),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_keys_of_an_optimiser_that_nothing_reads(kind: str) -> None:
    found = faults(f"server_optimizer={kind}", *(f"{key}={value}" for key, value in SET.items()))
    assert found.keys() == UNREAD[kind]
    for value, remedy in found.values():
        assert value == 0.5
        assert remedy.startswith(f"server_optimizer = {kind!r} does not read it; remove it, or choose ")
    if "server_beta2" in found:
        assert found["server_beta2"][1].endswith("choose adam, yogi")


def test_what_does_not_exist_is_reported_with_its_own_key() -> None:
    recipe = recipe_of("rule=fedavgg", "server_optimizer=adam", "weighting=samples")
    assert list(rule_faults(recipe)) == []
    assert by_key(validate_offline(recipe)).keys() == {"rule"}
    recipe = recipe_of("server_optimizer=adamw", "server_tau=0.1")
    assert by_key(validate_offline(recipe)).keys() == {"server_optimizer"}


OWN = {
    "fslora": ("sketch", "shared"),
    "hetlora_pruning": ("gamma", 0.5),
    "flasc": ("upload_density", 0.5),
    "slora": ("sparse_rounds", 1),
    "trimmed_mean": ("trim", 0.2),
    "krum": ("byzantine", 0),
    "norm_bound": ("bound", 0.5),
}


def test_every_rule_with_keys_is_among_them() -> None:
    assert OWN.keys() == {name for name, entry in RULES.items() if entry.keys is not None}


@pytest.mark.parametrize("rule", RULES)
def test_keys_of_another_rule(rule: str) -> None:
    """All at once: those of the rule itself are no fault, each other table names the rule that would read it."""
    words = [f"federation.{owner}.{key}={value}" for owner, (key, value) in OWN.items()]
    needed = NEEDED.get(rule, ()) if rule not in OWN else ()
    found = by_key(validate_offline(parse_recipe("", [f"federation.rule={rule}", *words, *needed])))
    assert found == {
        owner: ({key: value}, f"federation.rule = {rule!r} does not read it; remove it, or choose rule {owner}")
        for owner, (key, value) in OWN.items()
        if owner != rule
    }


@pytest.mark.parametrize("policy", ["fixed", "joint", "per_device", "random_frequency"])
def test_no_plan_goes_with_ranks_that_prune_themselves(policy: str) -> None:
    recipe = parse_recipe("", ["federation.rule=hetlora_pruning", f"plan.policy={policy}"])
    (fault,) = rule_faults(recipe)
    assert (fault.key, fault.value) == ("plan.policy", policy)
    assert fault.remedy.startswith("no plan knows of the shrinking ranks")


@pytest.mark.parametrize("rule", ["median", "krum", "trimmed_mean"])
def test_weights_that_nothing_reads_are_reported(rule: str) -> None:
    found = faults(f"rule={rule}", "weighting=samples", "devices=9", "devices_per_round=9")
    assert found == {"weighting": ("samples", f"{rule} weighs nothing; remove it")}
    assert faults("rule=norm_bound", "norm_bound.bound=1.0", "weighting=samples") == {}


def test_the_rules_that_have_a_trait_are_listed() -> None:
    assert able("mixed_ranks") == ", ".join(name for name, entry in RULES.items() if entry.traits().mixed_ranks)


def test_a_rule_of_ones_own_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys stand in a table of that name, its faults are reported, and it is made with them."""
    (tmp_path / "mine.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    table = '[federation]\nrule = "mine:ENTRY"\n[federation."mine:ENTRY"]\nshare = {}\n'
    recipe = parse_recipe(table.format(0.25))
    assert validate_offline(recipe) == []
    assert make_rule(recipe, 3).traits.uplink_density == 0.25
    assert parse_recipe(to_toml(recipe)) == recipe
    assert by_key(validate_offline(parse_recipe(table.format(2.0)))) == {"mine:ENTRY.share": (2.0, "must be at most 1")}
    assert by_key(validate_offline(parse_recipe(table.format(0.5)))) == {"rounds": (5, "half is for one round")}
    for name, why in (
        ("mine:NOTHING", "cannot be imported"),
        ("yours:ENTRY", "cannot be imported"),
        ("mine:key", "not a RuleEntry"),
    ):
        (fault,) = validate_offline(parse_recipe("", [f"federation.rule={name}"]))
        assert (fault.key, fault.value) == ("federation.rule", name)
        assert why in fault.remedy


OWN_MODULE = """
from dataclasses import dataclass
from fedfit.aggregation.contract import Rule, RuleEntry, ServerHalf, Traits
from fedfit.aggregation.weighted_mean import average
from fedfit.errors import Fault
from fedfit.schema import key

@dataclass(frozen=True)
class Keys:
    share: float = key(0.1, "a share", above=0, maximum=1)

def faults(recipe, keys):
    if keys.share == 0.5:
        yield Fault("federation.rounds", recipe.federation.rounds, "half is for one round")

ENTRY = RuleEntry(lambda keys, context: Rule(Traits(uplink_density=keys.share), ServerHalf(average)), Keys, faults)
"""
