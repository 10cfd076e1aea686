"""Rules with server optimisers and robust means round them: what makes no sense together, and keys that nothing reads."""

import pytest

from fedfit.aggregation.compose import compose
from fedfit.aggregation.rules import RULES
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.rule_faults import rule_faults


def faults(*overrides: str) -> dict[str, tuple[object, str]]:
    found = list(rule_faults(parse_recipe("", [f"federation.{words}" for words in overrides])))
    assert len({fault.key for fault in found}) == len(found), "a key is told twice"
    return {fault.key.removeprefix("federation."): (fault.value, fault.remedy) for fault in found}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rule=flexlora", "ranks=[2,4,8]"),
        *[("server_optimizer=sgd", f"rule={rule}", "server_learning_rate=0.5") for rule in ("fedavg", "ffa_lora", "rolora")],
        ("server_optimizer=momentum", "server_learning_rate=0.5", "server_momentum=0.5"),
        ("server_optimizer=adagrad", "server_momentum=0.0", "server_tau=0.1"),
        ("server_optimizer=adam", "server_learning_rate=0.01", "server_momentum=0.5", "server_beta2=0.9", "server_tau=0.1"),
        ("server_optimizer=yogi", "server_beta2=0.9", "robust=median"),
        ("robust=median",),
        ("robust=trimmed_mean", "trim=0.49"),
        ("robust=krum", "devices_per_round=5"),
        ("robust=krum", "devices_per_round=3", "suspected=0"),
        ("robust=krum", "devices_per_round=9", "suspected=3"),
        ("robust=norm_bound", "norm_bound=0.5"),
    ],
)
def test_what_fits_together_has_no_fault_and_can_be_built(overrides: tuple[str, ...]) -> None:
    assert faults(*overrides) == {}
    settings = parse_recipe("", [f"federation.{words}" for words in overrides]).federation
    compose(RULES[settings.rule](), settings)


def test_an_optimiser_needs_a_lasting_pair() -> None:
    value, remedy = faults("rule=flexlora", "server_optimizer=adam")["server_optimizer"]
    assert value == "adam"
    assert "flexlora does not keep one pair of factors" in remedy
    able = remedy.split("choose rule ")[1].removesuffix(", or none").split(", ")
    assert able == [name for name, rule in RULES.items() if rule.keeps_pair]
    assert {"fedavg", "ffa_lora", "rolora"} <= set(able)
    assert "flexlora" not in able


@pytest.mark.parametrize("robust", ["median", "trimmed_mean", "krum", "norm_bound"])
@pytest.mark.parametrize("rule", [name for name in RULES if name != "fedavg"])
def test_a_robust_mean_takes_the_place_of_fedavgs(robust: str, rule: str) -> None:
    found = faults(f"robust={robust}", f"rule={rule}", "norm_bound=1.0", "devices_per_round=9")
    assert found["robust"] == (robust, f"it takes the place of fedavg's mean, and {rule} has another; choose none")


def test_a_robust_mean_needs_one_rank() -> None:
    remedy = "factors of mixed ranks have no coordinates in common; give devices one rank"
    assert faults("robust=median", "ranks=[1,2,3]") == {"robust": ("median", remedy)}
    recipe = parse_recipe("", ["federation.robust=median", "plan.policy=per_device"])
    assert [(fault.key, fault.remedy) for fault in rule_faults(recipe)] == [("federation.robust", remedy)]


@pytest.mark.parametrize(("devices", "suspected"), [(4, 1), (3, 1), (2, 0), (8, 3)])
def test_krum_needs_enough_devices(devices: int, suspected: int) -> None:
    least = 2 * suspected + 3
    assert faults("robust=krum", f"devices_per_round={devices}", f"suspected={suspected}") == {
        "suspected": (
            suspected,
            f"krum then needs at least 2·{suspected} + 3 = {least} devices a round, and "
            f"federation.devices_per_round = {devices}; raise that, or lower it",
        )
    }


@pytest.mark.parametrize("trim", [0.5, 0.7])
def test_half_at_each_end_is_everything(trim: float) -> None:
    assert faults("robust=trimmed_mean", f"trim={trim}") == {"trim": (trim, "half at each end is everything; set it below 0.5")}


def test_a_norm_bound_must_be_given() -> None:
    assert faults("robust=norm_bound") == {
        "norm_bound": (None, 'robust = "norm_bound" needs the norm that a whole update may move by')
    }


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


@pytest.mark.parametrize(
    ("robust", "own"), [("none", ""), ("median", ""), ("trimmed_mean", "trim"), ("norm_bound", "norm_bound")]
)
def test_keys_of_a_robust_mean_that_nothing_reads(robust: str, own: str) -> None:
    found = faults(f"robust={robust}", "trim=0.2", "suspected=2", "norm_bound=1.0")
    assert found.keys() == {"trim", "suspected", "norm_bound"} - {own}
    if "suspected" in found:
        assert found["suspected"] == (2, f"robust = {robust!r} does not read it; remove it, or choose krum")


def test_what_does_not_exist_is_told_elsewhere() -> None:
    assert faults("rule=fedavgg", "server_optimizer=adam", "robust=median") == {}
    assert faults("server_optimizer=adamw", "server_tau=0.1", "robust=mode", "trim=0.2") == {}


OWN = {
    "sketch": ("shared", "fslora"),
    "pruning": (0.5, "hetlora"),
    "pruning_penalty": (0.5, "hetlora"),
    "download_density": (0.5, "flasc"),
    "upload_density": (0.5, "flasc"),
    "sparse_rounds": (1, "slora"),
    "sparse_density": (0.5, "slora"),
}


@pytest.mark.parametrize("rule", RULES)
def test_keys_of_another_rule(rule: str) -> None:
    """All at once: those of the rule itself are no fault, each other one names the rule that would read it."""
    found = faults(f"rule={rule}", *(f"{key}={value}" for key, (value, _) in OWN.items()))
    assert found == {
        key: (value, f"rule = {rule!r} does not read it; remove it, or choose {owner}")
        for key, (value, owner) in OWN.items()
        if owner != rule
    }


def test_shrinking_ranks_have_no_moments() -> None:
    remedy = "no server optimiser goes with devices' shrinking ranks; set it to 1"
    assert faults("rule=hetlora", "pruning=0.99", "server_optimizer=adam") == {"pruning": (0.99, remedy)}
    assert faults("rule=hetlora", "pruning=1.0", "server_optimizer=adam") == {}
    assert faults("rule=hetlora", "pruning=0.99", "pruning_penalty=0.0") == {}


def test_a_penalty_without_pruning() -> None:
    remedy = "pruning = 1 never prunes, so nothing reads it; remove it, or set pruning below 1"
    assert faults("rule=hetlora", "pruning_penalty=0.5") == {"pruning_penalty": (0.5, remedy)}


@pytest.mark.parametrize("policy", ["fixed", "joint", "per_device", "random_frequency"])
def test_no_plan_goes_with_ranks_that_prune_themselves(policy: str) -> None:
    recipe = parse_recipe("", ["federation.rule=hetlora", "federation.pruning=0.9", f"plan.policy={policy}"])
    (fault,) = rule_faults(recipe)
    assert (fault.key, fault.value) == ("federation.pruning", 0.9)
    assert fault.remedy.startswith("no plan knows of devices' shrinking ranks")


@pytest.mark.parametrize("what", ["robust=median", "robust=krum", "robust=trimmed_mean"])
def test_weights_that_nothing_reads_are_told(what: str) -> None:
    found = faults(what, "weighting=samples", "devices=9", "devices_per_round=9")
    assert found == {"weighting": ("samples", f"{what.partition('=')[2]} weighs nothing; remove it")}
