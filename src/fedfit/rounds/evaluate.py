"""Metrics of the resident model, of a federation's global model, and of each device's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from fedfit.aggregation.contract import Rule
from fedfit.core.personal import Models
from fedfit.core.task import Metric, Score, Speaker, Task
from fedfit.core.update import Job, ServerState, Update
from fedfit.data.batches import length_sorted_batches
from fedfit.data.tokenize import Samples
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.records import DeviceScore
from fedfit.rounds.memories import Memories, parted
from fedfit.rounds.own_models import OwnModels

_BATCH_SIZE = 128
_LANGUAGE_BATCH_SIZE = 16
"""Of a language model, whose layers are wider than a classifier's and whose texts are longer."""


def evaluate(
    model: SplitModel, trunk: Trunk, task: Task, samples: Samples, precision: str = "fp32", rows: np.ndarray | None = None
) -> Score:
    """The model as it is, over ``samples[rows]``; over all when ``None``. Beside it the reference, where the task has one."""
    score: dict[str, Metric] = {}
    for shown, scorer in task.scorers(samples):
        for _, output, targets in outputs(model, trunk, task, shown, precision, rows):
            scorer.add(output, targets)
        score |= scorer.score()
    return score


@torch.inference_mode()
def outputs(
    model: SplitModel, trunk: Trunk, task: Task, samples: Samples, precision: str = "fp32", rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """Yields rows, the model's outputs and the targets over ``samples[rows]``, batch by batch, shortest samples first.

    Where the task compares with a reference, the targets hold the output of the frozen base.
    """
    chosen = np.arange(len(samples)) if rows is None else rows
    trunk.prepare(samples, chosen.tolist())
    model.train_mode(False)
    size = _BATCH_SIZE if task.outputs is not None else _LANGUAGE_BATCH_SIZE
    for batch in length_sorted_batches(samples.lengths[chosen], size):
        states = trunk.batch(samples, chosen[batch])
        targets = task.collate(samples, chosen[batch], model.device)
        with autocast(model.device, precision):
            if task.reference is not None:
                with model.adapter.disabled():
                    targets = task.reference.beside(targets, model.tail(states, task.positions(targets)))
            output = model.tail(states, task.positions(targets))
        yield chosen[batch], output, targets


@dataclass
class Policy:
    """Which models are measured, on what, and when.

    Args:
        sets: test rows of all devices together by prefix, ``test`` and perhaps ``validation``.
        train: the samples whose rows the devices hold.
        tests: each device's own test rows in ``train``; empty where none are set apart.
        models: ``global``, ``devices`` or ``both``.
        every: rounds between two evaluations; round 0 and the last are always measured.
        speaker: the resident model as one that answers.
        own: the models that devices have by a method of personalisation.
        others: test rows of other devices in ``train``, for each device; empty where none are asked for.
    """

    rule: Rule
    model: SplitModel
    trunk: Trunk
    task: Task
    memories: Memories
    sets: Mapping[str, Samples]
    train: Samples
    holders: Sequence[int]
    tests: Sequence[np.ndarray]
    models: str
    every: int
    rounds: int
    precision: str
    speaker: Speaker
    own: OwnModels | None = None
    others: Sequence[np.ndarray] = ()

    def __post_init__(self) -> None:
        self._own: dict[tuple[str, int | None, int | None], Score] = {}
        self._last_round = -1

    def evaluate(self, state: ServerState, after_round: int) -> tuple[Score, Sequence[DeviceScore]]:
        """See ``rounds.federation.Evaluator``."""
        if after_round <= self._last_round:  # another run: its devices may have trained otherwise
            self._own.clear()
        self._last_round = after_round
        if after_round % self.every and after_round != self.rounds:
            return {}, ()
        job = self.rule.server.model(state)
        found: dict[str, Metric] = {}
        if self.models in ("global", "both"):
            for prefix, samples in self.sets.items():
                found |= _prefixed(prefix, self._on(job, samples))
        elif not any(map(len, self.tests)):
            for prefix, samples in self.sets.items():
                found |= _prefixed(prefix, self._mean_of_devices(job.update, prefix, samples, after_round + 1))
        scores = self._devices(job, after_round) if self.models != "global" else []
        return {**found, **summary(scores)}, scores

    def _on(self, job: Job, samples: Samples, rows: np.ndarray | None = None) -> Score:
        self.model.load(job)
        score = evaluate(self.model, self.trunk, self.task, samples, self.precision, rows)
        if self.task.answers is None:
            return score
        return {**score, **self.task.answers.score(self.speaker, samples, np.arange(len(samples)) if rows is None else rows)}

    def _mean_of_devices(self, adapter: Update, prefix: str, samples: Samples, before_round: int) -> Score:
        """The mean over the devices' own models on a common set."""
        scores = [self._own_score(device, adapter, prefix, samples, before_round) for device in self.holders]
        return {name: Metric(fmean(s[name].value for s in scores), m.higher_is_better) for name, m in scores[0].items()}

    def _own_score(self, device: int, adapter: Update, prefix: str, samples: Samples, before_round: int) -> Score:
        """One device's own model on a common set; where nothing is shared, measured once for each of its rounds."""
        kept = self.memories.last_round(device, before_round)
        key = (prefix, None if kept is None else device, kept)
        if not self.rule.traits.shares and key in self._own:
            return self._own[key]
        job = self.rule.device.receive(adapter, parted(self.memories.read(device, before_round)).rule)
        self._own[key] = self._on(job, samples)
        return self._own[key]

    def _devices(self, job: Job, after_round: int) -> list[DeviceScore]:
        """Each device's own models on its own test part; the global one where devices have none of their own."""
        scores = []
        for device, rows in enumerate(self.tests):
            if len(rows):
                models = self.models_of(device, job, after_round)
                metrics: dict[str, Metric] = {}
                for name, own in models.jobs.items():
                    metrics |= _prefixed(name, self._on(own, self.train, rows))
                    if self.others and len(self.others[device]):
                        metrics |= _prefixed(f"{name}_others", self._on(own, self.train, self.others[device]))
                scores.append(DeviceScore(after_round, device, len(rows), metrics, models.facts))
        return scores

    def models_of(self, device: int, job: Job, after_round: int) -> Models:
        """The models of ``device`` by name, from the global ``job``."""
        if self.own is None and not self.rule.traits.personal:
            return Models({"shared": job})
        kept = parted(self.memories.read(device, after_round + 1))
        shared = self.rule.device.receive(job.update, kept.rule) if self.rule.traits.personal else job
        if self.own is None:
            return Models({"personal": shared})
        return self.own.of(device, shared, kept.own, after_round)


def summary(scores: Sequence[DeviceScore]) -> Score:
    """Mean, worst, tenth percentile from the worst, and spread (standard deviation) over the devices of each metric:
    ``personal_accuracy_mean``, ``…_worst``, ``…_p10``, ``…_spread``.
    """
    found: dict[str, Metric] = {}
    for name, first in (scores[0].metrics if scores else {}).items():
        values = [score.metrics[name].value for score in scores]
        higher = first.higher_is_better
        found[f"{name}_mean"] = Metric(fmean(values), higher)
        found[f"{name}_worst"] = Metric(min(values) if higher else max(values), higher)
        found[f"{name}_p10"] = Metric(float(np.percentile(values, 10 if higher else 90)), higher)
        found[f"{name}_spread"] = Metric(float(np.std(values)), higher_is_better=False)
    return found


def _prefixed(prefix: str, score: Score) -> dict[str, Metric]:
    return {f"{prefix}_{name}": metric for name, metric in score.items()}
