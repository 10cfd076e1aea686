"""The rule's own seconds: all that it does, and nothing of what it waits for."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fedfit.aggregation.contract import Rule
from fedfit.core.update import AdapterSize, ServerState, Update
from fedfit.experiment.build import Experiment
from fedfit.records import RoundRecord
from fedfit.rounds.loop import Stopwatch
from tests.aggregation.watching import most_alive
from tests.builders import random_update, rule_of, tiny_experiment, tiny_recipe

SLEEP = 0.2


def stream(count: int, sleep: float) -> Iterator[Update]:
    for seed in range(count):
        time.sleep(sleep)
        yield random_update(seed)
    time.sleep(sleep)  # what a stream does after its last


def test_waiting_is_not_its_own() -> None:
    watch = Stopwatch()
    assert len(list(watch.waiting(stream(3, SLEEP)))) == 3
    assert watch.own_seconds < SLEEP / 2


def test_its_own_work_is() -> None:
    """Before, between and after the updates."""
    watch = Stopwatch()
    time.sleep(SLEEP)
    for _ in watch.waiting(stream(2, SLEEP)):
        time.sleep(SLEEP)
    time.sleep(SLEEP)
    assert 4 * SLEEP <= watch.own_seconds < 4 * SLEEP + SLEEP / 2


def test_the_stream_comes_as_it_is_and_may_be_left() -> None:
    watch = Stopwatch()
    assert [update.facts["train_loss"] for update in watch.waiting(stream(3, 0))] == [0.1, 1.1, 2.1]
    assert list(watch.waiting(iter(()))) == []
    assert len(list(islice(watch.waiting(stream(3, 0)), 1))) == 1


def test_no_update_is_kept() -> None:
    def drain(updates: Iterator[Update]) -> None:
        for update in Stopwatch().waiting(updates):
            del update

    assert most_alive(drain) == 0


FEDAVG = rule_of("fedavg")


def slow_rule() -> Rule:
    """FedAvg that sleeps where the server works, and nowhere on the device."""

    def dispatch(state: ServerState, device: int, size: AdapterSize, seed: int) -> Update:
        time.sleep(SLEEP)
        return FEDAVG.server.dispatch(state, device, size, seed)

    def apply(state: ServerState, updates: Iterable[Update]) -> ServerState:
        state = FEDAVG.server.apply(state, updates)
        time.sleep(SLEEP)
        return state

    return replace(FEDAVG, server=replace(FEDAVG.server, dispatch=dispatch, apply=apply))


def with_slow_devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    made = tiny_experiment(tiny_recipe(folder, federation={"rounds": 1}), None)
    plain = made.trainer.train

    def train(*arguments: Any) -> Update:
        time.sleep(SLEEP)
        return plain(*arguments)

    monkeypatch.setattr(made.trainer, "train", train)
    return made


@pytest.mark.parametrize(("rule", "sleeps"), [(FEDAVG, 0), (slow_rule(), 4)], ids=["fast", "slow"])
def test_a_round_tells_them(rule: Rule, sleeps: int, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three devices that sleep, and a rule that sleeps once for each of them and once at the end, or not at all."""
    made = with_slow_devices(tiny_bert, monkeypatch)
    made.federation = replace(made.federation, rule=rule)
    start, one = (result.record for result in made.run())
    assert start.server_seconds is None
    assert one.server_seconds is not None
    assert sleeps * SLEEP <= one.server_seconds < sleeps * SLEEP + SLEEP / 2
    assert one.seconds > (3 + sleeps) * SLEEP
    assert RoundRecord.from_json(one.to_json()) == one
    assert RoundRecord.from_json({k: v for k, v in one.to_json().items() if k != "server_seconds"}) == replace(
        one, server_seconds=None
    ), "a line of before"
