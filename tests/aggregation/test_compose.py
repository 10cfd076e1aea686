import pytest

from fedfit.aggregation.base import Rule
from fedfit.aggregation.compose import ROBUST, compose
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.flexlora import FlexLora
from fedfit.aggregation.krum import Krum
from fedfit.aggregation.norm_bound import NormBound
from fedfit.aggregation.robust import Median, TrimmedMean
from fedfit.aggregation.rolora import RoLora
from fedfit.aggregation.server_optimizer import KINDS, ServerOptimizer
from fedfit.settings import FederationSettings
from tests.builders import random_update, same_bits

STATE = random_update(99)
UPDATES = [random_update(n, float(1 + n)) for n in range(5)]


def choices(name: str) -> set[str]:
    return set(FederationSettings.__dataclass_fields__[name].metadata["choices"])


def test_the_words_of_the_recipe_are_those_of_the_tables() -> None:
    assert choices("server_optimizer") == {"none", *KINDS}
    assert choices("robust") == {"none", *ROBUST}


def test_nothing_asked_for_is_the_rule_itself() -> None:
    for rule in (FedAvg(), FlexLora(), RoLora()):
        assert compose(rule, FederationSettings()) is rule


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (FederationSettings(robust="median"), Median()),
        (FederationSettings(robust="trimmed_mean", trim=0.4), TrimmedMean(0.4)),
        (FederationSettings(robust="krum", suspected=0), Krum(0)),
        (FederationSettings(robust="norm_bound", norm_bound=0.5), NormBound(0.5)),
    ],
)
def test_a_robust_mean_with_its_own_setting(settings: FederationSettings, expected: Rule) -> None:
    rule = compose(FedAvg(), settings)
    assert type(rule) is type(expected)
    assert same_bits(rule.apply(STATE, UPDATES), expected.apply(STATE, UPDATES))
    assert not same_bits(rule.apply(STATE, UPDATES), FedAvg().apply(STATE, UPDATES))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("robust", ["none", "median"])
def test_an_optimiser_round_it_with_every_setting(kind: str, robust: str) -> None:
    """Two rounds, so that β1 counts; numbers that all differ, so that none can stand in another's place."""
    settings = FederationSettings(
        robust=robust,
        server_optimizer=kind,
        server_learning_rate=0.3,
        server_momentum=0.7,
        server_beta2=0.6,
        server_tau=0.2,
    )
    inner = Median() if robust == "median" else FedAvg()
    rule, expected = compose(FedAvg(), settings), ServerOptimizer(inner, kind, 0.3, 0.7, 0.6, 0.2)
    states = [rule.init(STATE), expected.init(STATE)]
    for _ in range(2):
        states = [one.apply(state, UPDATES) for one, state in zip((rule, expected), states, strict=True)]
    assert same_bits(states[0].adapter, states[1].adapter)


def test_what_makes_no_sense_is_refused() -> None:
    for rule in (FlexLora(), RoLora()):
        with pytest.raises(ValueError, match="takes the place of FedAvg's mean"):
            compose(rule, FederationSettings(robust="median"))
    with pytest.raises(ValueError, match="FlexLora keeps no pair"):
        compose(FlexLora(), FederationSettings(server_optimizer="adam"))
    with pytest.raises(ValueError, match="norm bound"):
        compose(FedAvg(), FederationSettings(robust="norm_bound"))
