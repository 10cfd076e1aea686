"""Exact answers: the choice whose text the model finds most probable, as a response to the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedfit.core.task import Metric, Score
from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import Samples
from fedfit.models.readout import Readout
from fedfit.tasks.templates import Template
from fedfit.tasks.token_targets import TokenTargets
from fedfit.tasks.trees import common_prefix, tree_samples

UNKNOWN = -1
"""The label of a row whose answer is none of the choices."""


def choice_samples(samples: Samples, texts: TextSet, template: Template, choices: Sequence[str], max_tokens: int) -> Samples:
    """``samples`` with a tree of all choices for each row in ``scored``; its labels are the numbers of the right ones.

    The response of a choice is the row's own response with the answer in it replaced by the choice (the last time that it
    stands there as a word), or the choice alone where the response does not hold the answer. Tokens that all choices begin with
    belong to the prompt: their probability is the same for all. The prompt is cut at its beginning where choices would go
    beyond ``max_tokens``.
    """
    asked = texts.fields["prompt"]
    prompts = template.prompts(asked)
    trees = []
    columns = [template.responses(asked, _responses(texts, choice)) for choice in choices]
    for number in range(len(texts)):
        parts = [column[number] for column in columns]
        shared = common_prefix(parts)
        room = max_tokens - max(map(len, parts))
        prompt = prompts[number][-max(room, 1) :] + list(parts[0][:shared])
        trees.append((prompt, [part[shared:] for part in parts]))
    numbers = {choice: number for number, choice in enumerate(choices)}
    labels = np.array([numbers.get(answer, UNKNOWN) for answer in texts.fields["answer"]], dtype=np.int64)
    scored = tree_samples([prompt for prompt, _ in trees], [parts for _, parts in trees], labels)
    return replace(samples, scored=scored)


def _responses(texts: TextSet, choice: str) -> list[str]:
    found = []
    for response, answer in zip(texts.fields["response"], texts.fields["answer"], strict=True):
        places = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", response)) if answer else []
        found.append(response[: places[-1].start()] + choice + response[places[-1].end() :] if places else choice)
    return found


class ChoiceScorer:
    """Gathers the most probable choices."""

    def __init__(self, choices: int) -> None:
        self._choices, self._right, self._rows = choices, 0, 0

    def add(self, output: Readout, targets: TokenTargets) -> None:
        """Takes in one batch; of equally probable choices the first one counts."""
        assert targets.labels is not None
        totals = targets.sums(output.log_probs(targets.ids).float(), self._choices)
        self._right += int((totals.argmax(dim=1) == targets.labels).sum())
        self._rows += len(targets.labels)

    def score(self) -> Score:
        """``answer_accuracy``."""
        return {"answer_accuracy": Metric(self._right / self._rows)}


def predicted_choices(output: Readout, targets: TokenTargets, choices: int) -> torch.Tensor:
    """The probabilities of the choices, ``(batch, choices)``, over which they add up to 1."""
    return targets.sums(output.log_probs(targets.ids).float(), choices).softmax(dim=1)
