"""When a run has had enough: target accuracy and patience, decided by the records alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fedfit.core.stopping import deciding, patience_ended, target_reached
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from fedfit.reports.read import read_run
from fedfit.reports.tables import status
from tests.trajectories.world import World, lines, outcome, resume


def rounds(*values: float | None, name: str = "test_accuracy") -> list[dict[str, object]]:
    """What the rounds measured; ``None`` for a round without evaluation."""
    return [{"round": number, name: value} for number, value in enumerate(values)]


def stops(made: list[dict[str, object]], patience: int, metric: str = "accuracy", higher: bool = True) -> int | None:
    """The first round at which patience ends."""
    ends = [count for count in range(1, len(made) + 1) if patience_ended(patience, metric, higher, made[:count])]
    return ends[0] - 1 if ends else None


def test_patience_counts_evaluations_without_a_better_value() -> None:
    assert stops(rounds(*[0.5] * 9), 0) is None, "0 never stops"
    assert stops(rounds(0.1, 0.3, 0.2, 0.3, 0.25), 2) == 3, "an equal value is no better one"
    assert stops(rounds(0.1, 0.3, 0.2, 0.31, 0.3, 0.3), 2) == 5
    assert stops(rounds(0.1, 0.3, None, None, 0.2, None, 0.2), 2) == 6, "rounds without an evaluation do not count"
    assert stops(rounds(3.0, 2.0, 2.5, name="test_loss"), 1, "loss", higher=False) == 2
    assert not patience_ended(1, "accuracy", True, [])


@given(some.lists(some.integers(0, 4), min_size=1, max_size=12), some.integers(1, 4))
def test_patience_against_a_counter(values: list[int], patience: int) -> None:
    best, waited, expected = values[0], 0, None
    for number, value in enumerate(values[1:], start=1):
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited == patience and expected is None:
            expected = number
    assert stops(rounds(*map(float, values)), patience) == expected


def test_validation_decides_if_there_is_some() -> None:
    both = {"test_accuracy": 0.1, "validation_accuracy": 0.9}
    assert (deciding(both, "accuracy"), deciding(both, "macro_f1")) == (0.9, None)
    assert deciding({"personal_accuracy_mean": 0.4}, "accuracy") == 0.4
    assert target_reached(0.9, both)
    assert not target_reached(0.0, both)
    assert not target_reached(0.05, {"test_accuracy": None})


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
    assert status(read_run(whole)) == "no longer improving"
    assert outcome(resume(tmp_path / "cut")) == outcome(whole), "a finished run has nothing left to do"
