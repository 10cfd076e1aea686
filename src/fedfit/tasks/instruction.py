"""Instructions: a prompt, and the response that is learned; the loss is on the response alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fedfit.core.task import Encoded, Scorer
from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import Samples
from fedfit.errors import DataError, choose
from fedfit.models.readout import Readout
from fedfit.tasks.answers import GreedyAnswers
from fedfit.tasks.exact_answers import ChoiceScorer, choice_samples
from fedfit.tasks.language_modelling import TokenScorer
from fedfit.tasks.templates import make_template
from fedfit.tasks.token_targets import TokenTargets
from fedfit.tasks.token_task import TokenTask
from fedfit.tasks.trees import left_out, tree_samples


@dataclass(frozen=True)
class Instruction(TokenTask):
    """Responses to prompts.

    Args:
        template: how a prompt is put to the model; see ``tasks.templates``.
        choices: the exact answers that rows with an ``answer`` are scored over.
        max_new_tokens: longest generated answer.
        generate_samples: rows that are answered at each evaluation, for ROUGE-L.
        positive: the answer that ``answer_f1`` is of.
        frame: what stands before and after the answer in most responses, for rows of one's own.
    """

    template: str = "chat"
    choices: Sequence[str] = ()
    max_new_tokens: int = 64
    generate_samples: int = 0
    frame: tuple[str, str] = ("", "")
    positive: str | None = None
    name: str = "instruction"
    reference: None = None

    def __post_init__(self) -> None:
        if self.positive is not None and self.positive not in self.choices:
            remedy = choose(self.positive, self.choices) if self.choices else "it has no exact answers; remove the key"
            raise DataError(f"task.positive = {self.positive!r}: the data have no such answer; {remedy}")

    @property
    def answers(self) -> GreedyAnswers | None:
        """Greedy answers to ``generate_samples`` rows."""
        return GreedyAnswers(self.generate_samples, self.max_new_tokens) if self.generate_samples else None

    @property
    def headline(self) -> str:
        """Exact-answer accuracy where there are answers, else the perplexity."""
        return "answer_accuracy" if self.choices else "perplexity"

    def encode(self, texts: TextSet, tokenizer: Any, max_tokens: int) -> Encoded:
        """Samples of prompt and response, at most ``max_tokens`` together.

        Rows without prompt or response are left out, and so is a row whose prompt leaves no room for its response; a response
        that is too long is cut. Samples carry the trees of their exact answers in ``scored``.
        """
        asked, said = texts.fields["prompt"], texts.fields["response"]
        template = make_template(self.template, tokenizer)
        present = [row for row in range(len(texts)) if asked[row].strip() and said[row].strip()]
        prompts = template.prompts([asked[row] for row in present])
        responses = template.responses([asked[row] for row in present], [said[row] for row in present])
        fits = [number for number, prompt in enumerate(prompts) if len(prompt) < max_tokens]
        kept = np.array([present[number] for number in fits], dtype=np.int64)
        if not len(kept):
            raise DataError(
                f"none of {len(texts)} rows has a prompt that leaves room for a response within data.max_tokens = "
                f"{max_tokens}; raise it, or check data.prompt and data.response"
            )
        samples = tree_samples(
            [prompts[number] for number in fits], [[responses[number][: max_tokens - len(prompts[number])]] for number in fits]
        )
        cut = sum(len(prompts[number]) + len(responses[number]) > max_tokens for number in fits)
        notes = left_out(len(texts) - len(present), "without prompt or response")
        notes += left_out(len(present) - len(fits), f"whose prompt leaves no room within data.max_tokens = {max_tokens}")
        notes += [f"{cut} responses cut at data.max_tokens = {max_tokens}"] if cut else []
        if self.choices:
            samples = choice_samples(samples, texts.select(kept), template, self.choices, max_tokens)
        return Encoded(samples, kept, notes)

    def loss(self, output: Readout, targets: TokenTargets) -> Tensor:
        """Mean cross-entropy a response token of the batch, nats."""
        return -output.log_probs(targets.ids).mean()

    def scorers(self, samples: Samples) -> list[tuple[Samples, Scorer]]:
        """Loss and perplexity; exact answers on the trees of the same rows."""
        found: list[tuple[Samples, Scorer]] = [(samples, TokenScorer())]
        if samples.scored is not None:
            found.append((samples.scored, ChoiceScorer(len(self.choices), self._positive)))
        return found

    @property
    def _positive(self) -> int | None:
        return None if self.positive is None else self.choices.index(self.positive)

    def describe(self) -> Mapping[str, Any]:
        """The direction of each metric, and the exact answers with their frame."""
        directions = {"loss": False, "perplexity": False}
        if self.generate_samples:
            directions["rouge_l"] = True
        if self.choices:
            directions["answer_accuracy"] = True
        if self.positive is not None:
            directions["answer_f1"] = True
        metrics = {"metrics": {name: {"higher_is_better": higher} for name, higher in directions.items()}}
        return {**metrics, "choices": list(self.choices), "answer_frame": list(self.frame)} if self.choices else metrics
