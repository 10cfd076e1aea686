"""Preferences: of two responses to a prompt the better one is made more probable, held to a reference model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fedfit.core.task import Encoded, Metric, Score, Scorer
from fedfit.data.corpus import TextSet
from fedfit.data.tokenize import Samples
from fedfit.errors import DataError
from fedfit.models.readout import Readout
from fedfit.tasks.preference_losses import LOSSES
from fedfit.tasks.templates import make_template
from fedfit.tasks.token_targets import TokenTargets
from fedfit.tasks.token_task import TokenTask
from fedfit.tasks.trees import left_out, tree_samples


@dataclass(frozen=True)
class Preference(TokenTask):
    """Pairs of a chosen and a rejected response, which share the computation of their prompt.

    Args:
        template: how a prompt is put to the model; see ``tasks.templates``.
        kind: a name of ``preference_losses.LOSSES``.
        beta: β of the loss.
        against: the model that the loss compares with: ``base``, the frozen one, or ``received``, what the device was sent.
    """

    template: str = "chat"
    kind: str = "dpo"
    beta: float = 0.1
    against: str = "base"
    name: str = "preference"
    answers: None = None

    @property
    def reference(self) -> PairReference:
        """The log-probabilities of both responses by another model."""
        return PairReference(self.against)

    @property
    def headline(self) -> str:
        """The share of pairs with the chosen response preferred."""
        return "preference_accuracy"

    def encode(self, texts: TextSet, tokenizer: Any, max_tokens: int) -> Encoded:
        """Samples of a prompt with two continuations, the chosen one first; each with the prompt at most ``max_tokens`` long.

        Rows with an empty text, rows whose two responses are the same, and rows whose prompt leaves no room are left out.
        """
        asked, better, worse = (texts.fields[name] for name in ("prompt", "chosen", "rejected"))
        template = make_template(self.template, tokenizer)
        whole = [row for row in range(len(texts)) if asked[row].strip() and better[row].strip() and worse[row].strip()]
        differ = [row for row in whole if better[row].strip() != worse[row].strip()]
        prompts = template.prompts([asked[row] for row in differ])
        pairs = [template.responses([asked[row] for row in differ], [side[row] for row in differ]) for side in (better, worse)]
        parts = [[side[number][: max_tokens - len(prompt)] for side in pairs] for number, prompt in enumerate(prompts)]
        # Cut to the same tokens, a pair says nothing.
        fits = [number for number, (one, other) in enumerate(parts) if len(prompts[number]) < max_tokens and one != other]
        if not fits:
            raise DataError(
                f"none of {len(texts)} rows has a prompt with two different responses within data.max_tokens = {max_tokens}; "
                "raise it, or check data.prompt, data.chosen and data.rejected"
            )
        notes = left_out(len(texts) - len(whole), "without prompt, chosen or rejected response")
        notes += left_out(len(whole) - len(differ), "whose chosen and rejected response are the same")
        notes += left_out(len(differ) - len(fits), f"without room for their responses within data.max_tokens = {max_tokens}")
        samples = tree_samples([prompts[number] for number in fits], [parts[number] for number in fits])
        return Encoded(samples, np.array([differ[number] for number in fits], dtype=np.int64), notes)

    def loss(self, output: Readout, targets: TokenTargets) -> Tensor:
        """The mean of ``kind`` over the pairs of the batch."""
        policy = pair_log_probs(output, targets)
        return LOSSES[self.kind](policy, targets.reference, targets.counts(2), self.beta).mean()

    def scorers(self, samples: Samples) -> list[tuple[Samples, Scorer]]:
        """Accuracy, margin, divergence and loss."""
        return [(samples, PreferenceScorer(self))]

    def describe(self) -> Mapping[str, Any]:
        """The direction of each metric."""
        directions = {"preference_accuracy": True, "preference_margin": True, "kl": False, "loss": False}
        return {"metrics": {name: {"higher_is_better": higher} for name, higher in directions.items()}}


@dataclass(frozen=True)
class PairReference:
    """See ``core.task.Reference``."""

    against: str

    def values(self, output: Readout, targets: TokenTargets) -> Tensor:
        """The log-probability of each response, ``(rows, 2)``."""
        return pair_log_probs(output, targets)

    def beside(self, targets: TokenTargets, values: Any) -> TokenTargets:
        """``targets`` with the reference's log-probabilities ``(rows, 2)``, or with its readout."""
        return targets.with_reference(values)


def pair_log_probs(output: Readout, targets: TokenTargets) -> Tensor:
    """The log-probability of the chosen and of the rejected response, summed over tokens: ``(rows, 2)``."""
    return targets.sums(output.log_probs(targets.ids).float(), 2)


class PreferenceScorer:
    """Gathers how a model orders pairs, beside its reference."""

    def __init__(self, task: Preference) -> None:
        self._task = task
        self._pairs, self._tokens = 0, 0
        self._preferred, self._margin, self._loss, self._divergence = 0, 0.0, 0.0, 0.0

    def add(self, output: Readout, targets: TokenTargets) -> None:
        """Takes in one batch, whose ``reference`` is the reference's readout."""
        task, beside = self._task, targets.reference
        policy, reference = pair_log_probs(output, targets), pair_log_probs(beside, targets)
        ratios = policy - reference
        losses = LOSSES[task.kind](policy, reference, targets.counts(2), task.beta)
        self._pairs += targets.batch
        self._tokens += len(targets.ids)
        self._preferred += int((policy[:, 0] > policy[:, 1]).sum())
        self._margin += float((task.beta * (ratios[:, 0] - ratios[:, 1])).double().sum())
        self._loss += float(losses.double().sum())
        self._divergence += float(output.kl(beside).double().sum())

    def score(self) -> Score:
        """``preference_accuracy``: pairs whose chosen response is the more probable one; ``preference_margin``: the mean of
        β times the difference of the two log-ratios, nats; ``kl``: the divergence from the reference, nats a response token.
        """
        return {
            "preference_accuracy": Metric(self._preferred / self._pairs),
            "preference_margin": Metric(self._margin / self._pairs),
            "kl": Metric(self._divergence / self._tokens, higher_is_better=False),
            "loss": Metric(self._loss / self._pairs, higher_is_better=False),
        }
