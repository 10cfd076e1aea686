"""The language model of a finished run, beside its base: answers, exact answers, and turns of a conversation."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fedfit.adapters.table import adapter_kind
from fedfit.errors import RunFolderError
from fedfit.experiment.tuned import Prediction, Tuned, tuned
from fedfit.models.families import family_of
from fedfit.models.layers import select_layers
from fedfit.models.speaker import ModelSpeaker, Sampling
from fedfit.models.split import SplitModel
from fedfit.models.trunk import Trunk
from fedfit.rounds.evaluate import outputs
from fedfit.tasks.exact_answers import choice_trees, framed, predicted_choices
from fedfit.tasks.instruction import Instruction
from fedfit.tasks.templates import make_template

log = logging.getLogger(__name__)

PLAIN = "{prompt}{response}"
"""The template of plain texts: they are continued as they are."""

Turn = tuple[str, str]
"""A prompt, and the answer to it."""


class LanguageModel:
    """The tuned model of ``run`` and its frozen base, in one model in memory.

    Raises:
        RunFolderError: for a folder without a saved adapter, or a damaged ``task.json``.
        ModelError: when the base model cannot be had.
        DataError: for a tokenizer without the chat template that the recipe asks for.
    """

    def __init__(self, run: Path, model: Tuned | None = None, adapter: Path | None = None) -> None:
        found = model or tuned(run, adapter=adapter)
        recipe, config = found.recipe, found.model.get_base_model().config
        family, layers = family_of(config.model_type), select_layers(recipe.adapter.layers, config.num_hidden_layers)
        self.recipe = recipe
        self._split = SplitModel(found.model, family, adapter_kind(recipe.adapter.kind), layers, found.device)
        self._speaker = ModelSpeaker(self._split, found.tokenizer)
        self.plain = recipe.task.kind == "language_modelling"
        """Whether it continues texts, and answers no prompts."""
        self._template = make_template(PLAIN if self.plain else recipe.task.template, found.tokenizer)
        self._choices, self._frame = _exact_answers(run)

    def predict(self, prompts: Sequence[str], max_new_tokens: int | None = None) -> list[Prediction]:
        """The most probable exact answer to each prompt, where the recipe has exact answers; else ``answers``."""
        if self._choices:
            return self._chosen(prompts)
        return [Prediction(answer) for answer in self.answers(prompts, max_new_tokens)]

    def answers(self, prompts: Sequence[str], max_new_tokens: int | None = None, *, base: bool = False) -> list[str]:
        """The greedy answer to each prompt; no answer to a prompt without text.

        Args:
            max_new_tokens: longest answer; by default ``task.max_new_tokens`` of the recipe.
            base: of the frozen base instead of the tuned model.
        """
        found = [""] * len(prompts)
        rows = [row for row, prompt in enumerate(prompts) if prompt.strip()]
        if len(rows) < len(prompts):
            log.warning("%d rows without a prompt have no answer", len(prompts) - len(rows))
        spoken = self._spoken(self._template.prompts([prompts[row] for row in rows]), max_new_tokens, base=base)
        for row, answer in zip(rows, spoken, strict=True):
            found[row] = answer
        return found

    def reply(
        self,
        turns: Sequence[Turn],
        prompt: str,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        *,
        base: bool = False,
    ) -> str:
        """The answer to ``prompt`` after ``turns``; the first turns are left out where all do not fit the model's positions.

        Args:
            sampling: draws tokens; greedy when ``None``. Others as ``answers`` has them.
        """
        kept, longest = list(turns), self._longest_prompt(self._most(max_new_tokens))
        ids = self._template.conversation(kept, prompt)
        while kept and len(ids) > longest:
            del kept[0]
            ids = self._template.conversation(kept, prompt)
        return self._spoken([ids], max_new_tokens, sampling, base=base)[0]

    def _spoken(
        self, prompts: Sequence[list[int]], max_new_tokens: int | None, sampling: Sampling | None = None, *, base: bool
    ) -> list[str]:
        """Answers to token ids, which are cut at their beginning where they leave no room for an answer."""
        most = self._most(max_new_tokens)
        longest = self._longest_prompt(most)
        if cut := sum(len(ids) > longest for ids in prompts):
            log.warning("%d prompts are longer than the model's %d positions leave room for, and are cut", cut, longest + most)
        shown = [np.array(ids[-longest:], dtype=np.int64) for ids in prompts]
        with self._split.adapter.disabled() if base else nullcontext():
            return self._speaker.answers(shown, most, sampling)

    def _most(self, max_new_tokens: int | None) -> int:
        return min(max_new_tokens or self.recipe.task.max_new_tokens, self._split.shape.longest - 1)

    def _longest_prompt(self, new_tokens: int) -> int:
        return self._split.shape.longest - new_tokens

    def _chosen(self, prompts: Sequence[str]) -> list[Prediction]:
        if not prompts:
            return []
        texts = framed(prompts, self._choices[0], self._frame)
        task = Instruction(self.recipe.task.template, self._choices)
        samples = choice_trees(texts, self._template, self._choices, self.recipe.data.max_tokens)
        trunk = Trunk(self._split, None, "float32", self.recipe.training.precision)
        found: list[Prediction] = [Prediction("")] * len(prompts)
        for rows, output, targets in outputs(self._split, trunk, task, samples, self.recipe.training.precision):
            for row, line in zip(rows, predicted_choices(output, targets, len(self._choices)).cpu(), strict=True):
                best = int(line.argmax())
                found[int(row)] = Prediction(self._choices[best], float(line[best]))
        return found


def _exact_answers(run: Path) -> tuple[tuple[str, ...], tuple[str, str]]:
    """The exact answers of ``task.json``, and what stands before and after one in a response."""
    try:
        facts: Any = json.loads((run / "task.json").read_bytes())
        choices, (before, after) = facts.get("choices", ()), facts.get("answer_frame", ("", ""))
        return tuple(map(str, choices)), (str(before), str(after))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{run / 'task.json'} cannot be read ({error}); `fedfit resume {run}` writes it anew") from error
