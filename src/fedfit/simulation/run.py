"""A whole federation on one machine, as a stream of round results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.data.tokenize import Samples
from fedfit.errors import TrainingStopped
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.randomness import derive_seed
from fedfit.records import RoundResult, Score, Update
from fedfit.rounds.client import Client
from fedfit.rounds.evaluate import evaluate
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import initial_result, run_round
from fedfit.schema import Draw
from fedfit.settings import Recipe
from fedfit.simulation.clock import FleetClock
from fedfit.simulation.in_process import InProcessLink
from fedfit.wireless.fleet import draw_numbers


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

    def __post_init__(self) -> None:
        training, rounds = self.recipe.training, self.recipe.federation.rounds
        self.client = Client(self.model, self.trunk, training, self.recipe.seed, rounds)
        self.initial = self.model.adapter.snapshot()

    def score(self, adapter: Update) -> Score:
        """``adapter`` on the test set."""
        self.model.adapter.load(adapter)
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
    federation = Federation(
        rule=simulation.rule,
        codec=simulation.codec,
        link=InProcessLink(simulation.client, simulation.codec, simulation.train, simulation.parts, simulation.initial),
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


def device_ranks(recipe: Recipe) -> list[int]:
    """The rank of every device where no plan gives one: ``federation.ranks``, listed or drawn, else the global rank."""
    federation, rank = recipe.federation, recipe.adapter.rank
    if federation.ranks is None:
        return [rank] * federation.devices
    if isinstance(federation.ranks, Draw):
        drawn = draw_numbers(federation.ranks, federation.devices, derive_seed(recipe.seed, "ranks"))
        return [min(max(1, round(value)), rank) for value in drawn.tolist()]
    return list(federation.ranks)


def is_uniform(recipe: Recipe, rule: Rule) -> bool:
    """Whether devices weigh alike: as the recipe says, else as the rule's paper has it."""
    return rule.uniform if recipe.federation.weighting == "rule" else recipe.federation.weighting == "uniform"
