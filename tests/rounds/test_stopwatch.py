"""The rule's own seconds: all that it does, and nothing of what it waits for."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from fedfit.aggregation.fedavg import FedAvg
from fedfit.records import AdapterSize, RoundRecord, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.round import Stopwatch
from fedfit.simulation.run import Simulation, run
from tests.aggregation.watching import most_alive
from tests.builders import random_update, tiny_recipe, tiny_simulation

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
    assert [update.metrics["train_loss"] for update in watch.waiting(stream(3, 0))] == [0.1, 1.1, 2.1]
    assert list(watch.waiting(iter(()))) == []
    assert len(list(islice(watch.waiting(stream(3, 0)), 1))) == 1


def test_no_update_is_kept() -> None:
    def drain(updates: Iterator[Update]) -> None:
        for update in Stopwatch().waiting(updates):
            del update

    assert most_alive(drain) == 0


class Slow(FedAvg):
    """Sleeps where the server works, and nowhere on the device."""

    def dispatch(self, state: Update, device: int, size: AdapterSize, seed: int) -> Update:
        time.sleep(SLEEP)
        return super().dispatch(state, device, size, seed)

    def apply(self, state: Update, updates: Iterable[Update]) -> Update:
        state = super().apply(state, updates)
        time.sleep(SLEEP)
        return state


class SlowClient(Client):
    def train(self, task: Task, *arguments: Any, **keys: Any) -> Update:
        time.sleep(SLEEP)
        return super().train(task, *arguments, **keys)


def federation(folder: Path) -> Simulation:
    made = tiny_simulation(tiny_recipe(folder, federation={"rounds": 1}), None)
    made.client = SlowClient(made.model, made.trunk, made.recipe.training, 0, 1)
    return made


@pytest.mark.parametrize(("rule", "sleeps"), [(FedAvg(), 0), (Slow(), 4)], ids=["fast", "slow"])
def test_a_round_tells_them(rule: FedAvg, sleeps: int, tiny_bert: Path) -> None:
    """Three devices that sleep, and a rule that sleeps once for each of them and once at the end, or not at all."""
    made = federation(tiny_bert)
    made.rule = rule
    start, one = (result.record for result in run(made))
    assert start.server_seconds is None
    assert one.server_seconds is not None
    assert sleeps * SLEEP <= one.server_seconds < sleeps * SLEEP + SLEEP / 2
    assert one.seconds > (3 + sleeps) * SLEEP
    assert RoundRecord.from_json(one.to_json()) == one
    assert RoundRecord.from_json({k: v for k, v in one.to_json().items() if k != "server_seconds"}) == replace(
        one, server_seconds=None
    ), "a line of before"
