"""A whole federation on one machine, as a stream of round results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

import numpy as np

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.data.tokenize import Samples
from fedfit.errors import TrainingStopped
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.records import PARTS, RoundResult, Score, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.device import Worker
from fedfit.rounds.evaluate import evaluate
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import initial_result, run_round
from fedfit.settings import Recipe
from fedfit.simulation.clock import FleetClock
from fedfit.simulation.in_process import InProcessLink
from fedfit.simulation.ranks import device_ranks
from fedfit.tracking.memories import DeviceMemories


@dataclass
class Simulation:
    """The built parts of a recipe. ``parts`` holds each device's indices into ``train``; ``clock`` is there where it plans."""

    recipe: Recipe
    model: SplitModel
    trunk: Trunk
    train: Samples
    test: Samples
    parts: Sequence[np.ndarray]
    rule: Rule
    codec: Codec
    clock: FleetClock | None = None
    memories: DeviceMemories = field(default_factory=DeviceMemories)

    def __post_init__(self) -> None:
        training, rounds = self.recipe.training, self.recipe.federation.rounds
        self.client = Client(self.model, self.trunk, training, self.recipe.seed, rounds)
        self.initial = self.model.adapter.snapshot()
        self.own_scores: dict[tuple[int | None, int | None], Score] = {}
        self.model.adapter.make_room(self.rule.room(self.initial))

    def score(self, state: Any, after_round: int) -> Score:
        """The rule's ``state`` on the test set: the global model, or the mean over the devices where each has its own."""
        adapter, base = self.rule.adapter(state), self.rule.base(state)
        if not self.rule.home:
            return self.evaluate(Task(adapter, base))
        scores = [self._own_score(device, adapter, after_round + 1) for device, part in enumerate(self.parts) if len(part)]
        return Score(*(fmean(getattr(score, item.name) for score in scores) for item in fields(Score)))

    def _own_score(self, device: int, adapter: Update, before_round: int) -> Score:
        """One device's own model; where nothing is shared, measured once for each of its rounds."""
        kept = self.memories.last_round(device, before_round)
        key = (None if kept is None else device, kept)
        if self.rule.home == PARTS and key in self.own_scores:
            return self.own_scores[key]
        self.own_scores[key] = self.evaluate(self.rule.receive(adapter, self.memories.read(device, before_round)))
        return self.own_scores[key]

    def evaluate(self, task: Task) -> Score:
        """One model on the test set."""
        self.model.load(task)
        return evaluate(self.model, self.trunk, self.test, self.recipe.training.precision)


def run(simulation: Simulation, last: RoundResult | None = None, failed: int = 0) -> Iterator[RoundResult]:
    """Round 0 and every round after it. To stop early, stop asking.

    Args:
        last: where to go on from, when resumed; ``failed`` is then the number of rounds up to it, in a row, without one
            usable update.

    Raises:
        TrainingStopped: after ``federation.max_failed_rounds`` rounds in a row without one usable update.
    """
    settings = simulation.recipe.federation
    simulation.own_scores.clear()
    worker = Worker(simulation.rule, simulation.client, simulation.codec, simulation.memories, simulation.initial)
    federation = Federation(
        rule=simulation.rule,
        codec=simulation.codec,
        link=InProcessLink(worker, simulation.train, simulation.parts),
        score=simulation.score,
        samples=[len(part) for part in simulation.parts],
        devices_per_round=settings.devices_per_round,
        seed=simulation.recipe.seed,
        size=simulation.recipe.adapter.size,
        ranks=device_ranks(simulation.recipe),
        uniform=is_uniform(simulation.recipe, simulation.rule),
        clock=simulation.clock,
    )
    if last is None:
        last = initial_result(federation, simulation.initial)
        yield last
    for number in range(last.record.round + 1, settings.rounds + 1):
        last = run_round(federation, last.state, number)
        yield last
        failed = failed + 1 if last.record.refused == last.record.devices else 0
        if failed >= settings.max_failed_rounds:
            raise TrainingStopped(
                f"every update of the last {failed} rounds was refused; the first reason: {last.devices[0].refused}"
            )


def is_uniform(recipe: Recipe, rule: Rule) -> bool:
    """Whether devices weigh alike: as the recipe says, else as the rule's paper has it."""
    return rule.uniform if recipe.federation.weighting == "rule" else recipe.federation.weighting == "uniform"
