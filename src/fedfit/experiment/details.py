"""What a run folder says of the task, and of the final model beyond its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedfit.core.task import Task
from fedfit.core.update import ServerState
from fedfit.data.corpus import TextSet
from fedfit.experiment.build import Experiment
from fedfit.models.speaker import ModelSpeaker
from fedfit.rounds.evaluate import outputs

LONGEST_TEXT = 300
"""Characters of a text that are quoted."""


def task_facts(task: Task) -> dict[str, Any]:
    """The content of ``task.json``: the task's kind, its first metric, and what it says of itself."""
    return {"kind": task.name, "headline": task.headline, **task.describe()}


def evaluation_of(experiment: Experiment, state: ServerState, after_round: int) -> Mapping[str, Any] | None:
    """The content of ``evaluation.json``: the task's details of the global model on the test set.

    ``None`` where each device has a model of its own.
    """
    parts = experiment.parts
    if experiment.rule.traits.personal:
        return None
    parts.model.load(experiment.rule.server.model(state))
    found = {"round": after_round, "set": "test", "samples": len(parts.sets["test"]), **_examined(experiment)}
    answers = _answers(experiment)
    return {**found, "answers": answers} if answers else found


def _examined(experiment: Experiment) -> Mapping[str, Any]:
    """The task's closer look at the resident model; nothing where it has none."""
    parts, texts, examiner = experiment.parts, experiment.test_texts, experiment.parts.task.examiner()
    if examiner is None:
        return {}
    precision = experiment.recipe.training.precision
    for rows, output, targets in outputs(parts.model, parts.trunk, parts.task, parts.sets["test"], precision):
        examiner.add(output, targets, rows)
    return examiner.details(lambda row: {} if texts is None else quoted(texts, row))


def _answers(experiment: Experiment) -> list[dict[str, str]]:
    """The first test samples as the resident model answers them, ``after``, and its frozen base, ``before``; keys ``prompt``,
    ``before``, ``after``, ``reference``."""
    parts, texts, answers = experiment.parts, experiment.test_texts, experiment.parts.task.answers
    if answers is None or texts is None:
        return []
    speaker, samples = ModelSpeaker(parts.model, parts.tokenizer), parts.sets["test"]
    after = answers.shown(speaker, samples)
    with parts.model.adapter.disabled():
        before = answers.shown(speaker, samples)
    shown = []
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        asked = quoted(texts, row)
        shown.append({"prompt": asked["prompt"], "before": _cut(old), "after": _cut(new), "reference": asked["response"]})
    return shown


def quoted(texts: TextSet, row: int) -> dict[str, str]:
    """The texts of a sample, each on one line and cut to ``LONGEST_TEXT`` characters."""
    return {name: _cut(values[row]) for name, values in texts.fields.items()}


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"
