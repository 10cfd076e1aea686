"""Instructions: a prompt, and the response that is learned; the loss is on the response alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfit.core.task import Encoded, Examiner, Metric, Score, Scorer, Speaker
from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import Samples
from fedfit.errors import DataError
from fedfit.models.readout import Readout
from fedfit.tasks.answers import SHOWN_ANSWERS, rouge_l
from fedfit.tasks.exact_answers import ChoiceScorer, choice_samples
from fedfit.tasks.language_modelling import NoExaminer, TokenScorer
from fedfit.tasks.templates import make_template
from fedfit.tasks.token_targets import TokenTargets, target_counts, token_targets
from fedfit.tasks.trees import tree_samples


@dataclass(frozen=True)
class Instruction:
    """Responses to prompts.

    Args:
        template: how a prompt is put to the model; see ``tasks.templates``.
        choices: the exact answers that rows with an ``answer`` are scored over.
        max_new_tokens: longest generated answer.
        generate_samples: rows that are answered at each evaluation, for ROUGE-L.
        frame: what stands before and after the answer in most responses, for rows of one's own.
    """

    template: str = "chat"
    choices: Sequence[str] = ()
    max_new_tokens: int = 64
    generate_samples: int = 0
    frame: tuple[str, str] = ("", "")
    name: str = "instruction"
    outputs: None = None
    reference: str = ""

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

    def collate(self, samples: Samples, rows: np.ndarray, device: torch.device) -> TokenTargets:
        """The response tokens, and where each is read."""
        return token_targets(samples, rows, device)

    def positions(self, targets: TokenTargets) -> Tensor:
        """The token before each token of the response."""
        return targets.index

    def reads(self, samples: Samples) -> np.ndarray:
        """Response tokens of each sample."""
        return target_counts(samples)

    def loss(self, output: Readout, targets: TokenTargets) -> Tensor:
        """Mean cross-entropy a response token of the batch, nats."""
        return -output.log_probs(targets.ids).mean()

    def reference_values(self, output: Readout, targets: TokenTargets) -> Tensor:
        """Never asked for."""
        raise NotImplementedError("instructions are learned without a reference")

    def with_reference(self, targets: TokenTargets, values: Any) -> TokenTargets:
        """Never asked for."""
        raise NotImplementedError("instructions are learned without a reference")

    def scorers(self, samples: Samples) -> list[tuple[Samples, Scorer]]:
        """Loss and perplexity; exact answers on the trees of the same rows."""
        found: list[tuple[Samples, Scorer]] = [(samples, TokenScorer())]
        if samples.scored is not None:
            found.append((samples.scored, ChoiceScorer(len(self.choices))))
        return found

    def speak(self, speaker: Speaker, samples: Samples, rows: np.ndarray) -> Score:
        """ROUGE-L of greedy answers to the first ``generate_samples`` of ``rows``."""
        chosen = rows[: self.generate_samples]
        if not len(chosen):
            return {}
        answers = speaker.answers([prompt_of(samples, row) for row in chosen], self.max_new_tokens)
        return {"rouge_l": Metric(rouge_l([speaker.text(response_of(samples, row)) for row in chosen], answers))}

    def answered(self, speaker: Speaker, samples: Samples) -> list[str]:
        """Greedy answers to the first of the ``generate_samples``, ten at most."""
        rows = range(min(self.generate_samples, SHOWN_ANSWERS, len(samples)))
        return speaker.answers([prompt_of(samples, row) for row in rows], self.max_new_tokens)

    def examiner(self) -> Examiner:
        """Nothing beyond the metrics and ``answered``."""
        return NoExaminer()

    def describe(self) -> Mapping[str, Any]:
        """The direction of each metric, and the exact answers with their frame."""
        directions = {"loss": False, "perplexity": False}
        if self.generate_samples:
            directions["rouge_l"] = True
        if self.choices:
            directions["answer_accuracy"] = True
        metrics = {"metrics": {name: {"higher_is_better": higher} for name, higher in directions.items()}}
        return {**metrics, "choices": list(self.choices), "answer_frame": list(self.frame)} if self.choices else metrics


def prompt_of(samples: Samples, row: int) -> np.ndarray:
    """Token ids of the prompt."""
    return _part(samples, row, prompt=True)


def response_of(samples: Samples, row: int) -> np.ndarray:
    """Token ids of what follows the prompt."""
    return _part(samples, row, prompt=False)


def _part(samples: Samples, row: int, *, prompt: bool) -> np.ndarray:
    segments = samples.segments_of(row)
    assert segments is not None
    part: np.ndarray = samples.ids_of(row)[(segments == 0) == prompt]
    return part


def left_out(count: int, which: str) -> list[str]:
    """A note of rows that are left out; none for no rows."""
    return [f"{count} rows {which} are left out"] if count else []
