"""Exact answers: the choice whose text the model finds most probable, as a response to the prompt."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import f1_score

from fedfit.core.task import Metric, Score
from fedfit.data.corpus import CHOICE_SIGN, TextSet
from fedfit.data.tokenize import Samples
from fedfit.models.readout import Readout
from fedfit.tasks.templates import Template
from fedfit.tasks.token_targets import TokenTargets
from fedfit.tasks.trees import Ids, common_prefix, tree_samples

UNKNOWN = -1
"""The label of a row whose answer is none of the choices."""


def choice_samples(samples: Samples, texts: TextSet, template: Template, choices: Sequence[str], max_tokens: int) -> Samples:
    """``samples`` with the trees of the same rows in ``scored``."""
    return replace(samples, scored=choice_trees(texts, template, choices, max_tokens))


def choice_trees(texts: TextSet, template: Template, choices: Sequence[str], max_tokens: int) -> Samples:
    """A tree of its choices for each row; its labels are the numbers of the right ones.

    A row's choices are those of its field ``choices``, else all; a choice that is none of its own has no tokens.

    The response of a choice is the row's own response with the answer in it replaced by the choice (the last time that it
    stands there as a word), or the choice alone where the response does not hold the answer. Tokens that all choices begin with
    belong to the prompt: their probability is the same for all. The prompt is cut at its beginning where choices would go
    beyond ``max_tokens``.
    """
    asked = texts.fields["prompt"]
    prompts = template.prompts(asked)
    own = _own_choices(texts, choices)
    trees = []
    columns = [template.responses(asked, _responses(texts, choice)) for choice in choices]
    for number, places in enumerate(own):
        parts = [columns[place][number] for place in places]
        shared = common_prefix(parts)
        room = max_tokens - max(map(len, parts))
        prompt = prompts[number][-max(room, 1) :] + list(parts[0][:shared])
        branches: list[Ids] = [()] * len(choices)
        for place, part in zip(places, parts, strict=True):
            branches[place] = part[shared:]
        trees.append((prompt, branches))
    numbers = {choice: number for number, choice in enumerate(choices)}
    labels = np.array([numbers.get(answer, UNKNOWN) for answer in texts.fields["answer"]], dtype=np.int64)
    return tree_samples([prompt for prompt, _ in trees], [parts for _, parts in trees], labels)


def answer_frame(texts: TextSet) -> tuple[str, str]:
    """What stands before and after the answer in most responses; nothing where half of the rows have something of their own."""
    found = Counter(
        (response[: place.start()], response[place.end() :])
        for response, answer in zip(texts.fields["response"], texts.fields["answer"], strict=True)
        if (place := _place(response, answer)) is not None
    )
    frame, rows = found.most_common(1)[0] if found else (("", ""), 0)
    return frame if 2 * rows > len(texts) else ("", "")


def framed(prompts: Sequence[str], answer: str, frame: tuple[str, str]) -> TextSet:
    """``prompts`` without known answers, as rows of ``choice_trees``: any answer stands in each."""
    before, after = frame
    count = len(prompts)
    return TextSet({"prompt": prompts, "response": [before + answer + after] * count, "answer": [answer] * count})


def _own_choices(texts: TextSet, choices: Sequence[str]) -> list[list[int]]:
    """The numbers of each row's own choices."""
    if "choices" not in texts.fields:
        return [list(range(len(choices)))] * len(texts)
    own = [set(cell.split(CHOICE_SIGN)) for cell in texts.fields["choices"]]
    return [[number for number, choice in enumerate(choices) if choice in mine] for mine in own]


def _responses(texts: TextSet, choice: str) -> list[str]:
    found = []
    for response, answer in zip(texts.fields["response"], texts.fields["answer"], strict=True):
        place = _place(response, answer)
        found.append(choice if place is None else response[: place.start()] + choice + response[place.end() :])
    return found


def _place(response: str, answer: str) -> re.Match[str] | None:
    """The last place at which the answer stands in the response as a word."""
    places = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", response)) if answer else []
    return places[-1] if places else None


class ChoiceScorer:
    """Gathers the most probable choices; ``positive`` is the number of the one that an F1 is of, if there is one."""

    def __init__(self, choices: int, positive: int | None = None) -> None:
        self._choices, self._positive = choices, positive
        self._true: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []

    def add(self, output: Readout, targets: TokenTargets) -> None:
        """Takes in one batch; of equally probable choices the first one counts."""
        assert targets.labels is not None
        totals = choice_scores(output, targets, self._choices)
        self._true.append(targets.labels.cpu().numpy())
        self._predicted.append(totals.argmax(dim=1).cpu().numpy())

    def score(self) -> Score:
        """``answer_accuracy``, and ``answer_f1`` of the choice by itself, 1 where it is nowhere, true or predicted."""
        true, predicted = np.concatenate(self._true), np.concatenate(self._predicted)
        found = {"answer_accuracy": Metric(int(np.count_nonzero(true == predicted)) / len(true))}
        if self._positive is not None:
            f1 = f1_score(true == self._positive, predicted == self._positive, zero_division=1.0)
            found["answer_f1"] = Metric(float(f1))
        return found


def predicted_choices(output: Readout, targets: TokenTargets, choices: int) -> torch.Tensor:
    """The probabilities of the choices, ``(batch, choices)``, over which they add up to 1."""
    return choice_scores(output, targets, choices).softmax(dim=1)


def choice_scores(output: Readout, targets: TokenTargets, choices: int) -> torch.Tensor:
    """The log-probabilities of the choices, ``(batch, choices)``; minus infinity for those that a row does not have."""
    totals = targets.sums(output.log_probs(targets.ids).float(), choices)
    return totals.masked_fill(targets.counts(choices) == 0, -math.inf)
