"""When a run has had enough: target accuracy and patience, decided by the records alone."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fedfit.core.task import Metric
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from fedfit.experiment.stopping import deciding, enough
from fedfit.records import RoundRecord
from tests.trajectories.world import World, lines, outcome, resume


def records(*values: float | None, name: str = "test_accuracy", higher: bool = True) -> list[RoundRecord]:
    metrics = [{} if value is None else {name: Metric(value, higher)} for value in values]
    return [RoundRecord(number, found, None, 0, 0, 0.0) for number, found in enumerate(metrics)]


def stops(made: list[RoundRecord], *overrides: str, headline: str = "accuracy") -> int | None:
    """The first round after which it is enough."""
    recipe = parse_recipe("", ["federation.rounds=99", *overrides])
    ends = [count for count in range(1, len(made) + 1) if enough(recipe, headline, made[:count])]
    return made[ends[0] - 1].round if ends else None


def test_nothing_stops_a_run_but_its_rounds() -> None:
    flat = records(*[0.5] * 9)
    assert stops(flat) is None
    assert stops(flat, "federation.rounds=4") == 4
    assert not enough(parse_recipe(""), "accuracy", [])


def test_patience_counts_evaluations_without_a_better_value() -> None:
    assert stops(records(0.1, 0.3, 0.2, 0.3, 0.25), "training.patience=2") == 3, "an equal value is no better one"
    assert stops(records(0.1, 0.3, 0.2, 0.31, 0.3, 0.3), "training.patience=2") == 5
    assert stops(records(0.1, 0.3, None, None, 0.2, None, 0.2), "training.patience=2") == 6, "rounds without one do not count"
    assert stops(records(0.5, 0.4), "training.patience=1") == 1
    assert stops(records(3.0, 2.0, 2.5, name="test_loss", higher=False), "training.patience=1", headline="loss") == 2


@given(some.lists(some.integers(0, 4), min_size=1, max_size=12), some.integers(1, 4))
def test_patience_against_a_counter(values: list[int], patience: int) -> None:
    best, waited, expected = values[0], 0, None
    for number, value in enumerate(values[1:], start=1):
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited == patience and expected is None:
            expected = number
    assert stops(records(*map(float, values)), f"training.patience={patience}") == expected


def test_validation_decides_if_there_is_some() -> None:
    (record,) = records(0.1)
    both = dataclasses.replace(record, metrics={**record.metrics, "validation_accuracy": Metric(0.9)})
    assert deciding(both, "accuracy") == Metric(0.9)
    assert enough(parse_recipe("", ["training.target_accuracy=0.9"]), "accuracy", [both])
    assert not enough(parse_recipe("", ["training.target_accuracy=0.05", "federation.rounds=3"]), "macro_f1", records(None))
    own = records(0.4, name="personal_accuracy_mean")[0]
    assert deciding(own, "accuracy") == Metric(0.4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


def test_a_run_that_does_not_improve_stops_and_a_resumed_one_stops_where_it_does(world: World, tmp_path: Path) -> None:
    keys = ["training.learning_rate=1e-12", "training.patience=2", "federation.rounds=9", "plan=", "fleet=", "channel="]
    whole = world.run(tmp_path / "whole", *keys)
    assert [line["round"] for line in lines(whole / "rounds.jsonl")] == [0, 1, 2]
    recipe = parse_recipe(world.recipe.read_text(), [*world.overrides, *keys])
    session = Session.start(recipe, tmp_path / "cut")
    stream = session.results()
    assert [next(stream).record.round for _ in range(2)] == [0, 1]
    stream.close()  # type: ignore[attr-defined]
    session.folder.close()
    assert outcome(resume(tmp_path / "cut")) == outcome(whole)
    assert outcome(resume(tmp_path / "cut")) == outcome(whole), "a finished run has nothing left to do"
