"""The contract of a task: the learning problem, apart from the model that learns it and the federation that spreads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A measured value, and its direction."""

    value: float
    higher_is_better: bool = True


Score = Mapping[str, Metric]
"""The metrics of one model on one set, by name (``accuracy``, ``loss``)."""


@dataclass(frozen=True)
class Encoded:
    """The rows of a set as a task makes samples of them.

    Args:
        samples: ``data.tokenize.Samples``.
        kept: the row behind each sample, ``(samples,)``: a row that cannot be learned from has none, a long text several.
        notes: what was left out or cut, in words, a line each.
    """

    samples: Any
    kept: np.ndarray
    notes: Sequence[str] = ()


class Scorer(Protocol):
    """Gathers a model's outputs over a set, batch by batch."""

    def add(self, output: Any, targets: Any) -> None:
        """Takes in one batch."""

    def score(self) -> Score:
        """The metrics of all batches so far."""


Show = Callable[[int], Mapping[str, str]]
"""The texts of the sample at a row, by field (``text``, ``pair``), short enough for a report."""


class Examiner(Protocol):
    """Looks closer than a scorer: gathers what a report shows of one model on one set, batch by batch."""

    def add(self, output: Any, targets: Any, rows: np.ndarray) -> None:
        """Takes in the batch of the samples at ``rows``."""

    def details(self, show: Show) -> Mapping[str, Any]:
        """Plain values for ``evaluation.json``, of all batches so far."""


class Speaker(Protocol):
    """The resident model, as one that answers prompts."""

    def answers(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> list[str]:
        """The greedy answer to each prompt of token ids, as text, without special tokens."""

    def text(self, ids: np.ndarray) -> str:
        """Token ids as text, without special tokens."""


class Answers(Protocol):
    """What is measured and shown of the answers that a model generates."""

    def score(self, speaker: Speaker, samples: Any, rows: np.ndarray) -> Score:
        """Metrics of answers to ``samples[rows]``, or to some of them."""

    def shown(self, speaker: Speaker, samples: Any) -> Sequence[str]:
        """The answers to the first few samples, for a report."""


class Reference(Protocol):
    """A model that a loss compares with, and what the loss needs of it."""

    @property
    def against(self) -> str:
        """``base``: the frozen model; ``received``: the one that the device was sent in this round."""

    def values(self, output: Any, targets: Any) -> Tensor:
        """Numbers of each row from the reference's output, ``(rows, …)``; they are kept for the steps of a round."""

    def beside(self, targets: Any, values: Any) -> Any:
        """``targets`` with ``values`` of their rows, or, to be scored, with the reference's whole output."""


class Task(Protocol):
    """What a model is asked, and how its answer is judged. Model and trainer know no label.

    ``targets`` is whatever ``collate`` returns. ``output`` is what the head gives at the positions that are read: logits of a
    classifier, a ``models.readout.Readout`` of a language model.
    """

    @property
    def name(self) -> str:
        """The task's name in a recipe."""

    @property
    def headline(self) -> str:
        """The metric that curves and tables show first, of ``scorer``'s."""

    @property
    def outputs(self) -> int | None:
        """Numbers that a classifier's head gives at a position; ``None`` for the head of a language model."""

    @property
    def reference(self) -> Reference | None:
        """The model that the loss compares with, if any."""

    @property
    def answers(self) -> Answers | None:
        """What is made of generated answers, if any are asked for."""

    def encode(self, texts: Any, tokenizer: Any, max_tokens: int) -> Encoded:
        """The samples of a ``data.corpus.TextSet``."""

    def collate(self, samples: Any, rows: np.ndarray, device: torch.device) -> Any:
        """The targets of ``samples`` at ``rows``."""

    def positions(self, targets: Any) -> Tensor | None:
        """The positions that the last layer and the head must compute: indices of tokens ``(batch, positions)``, -1 where a row
        has fewer; ``None`` for the one that the family's classifier reads."""

    def reads(self, samples: Any) -> np.ndarray:
        """The number of positions that are read of each sample, ``(samples,)``."""

    def loss(self, output: Any, targets: Any) -> Tensor:
        """The mean loss of a batch, with a gradient."""

    def scorers(self, samples: Any) -> Sequence[tuple[Any, Scorer]]:
        """New scorers, each with the samples that it is to be shown: ``samples`` or others made of the same rows."""

    def examiner(self) -> Examiner | None:
        """A new examiner; ``None`` where metrics and answers say all."""

    def describe(self) -> Mapping[str, Any]:
        """Plain values for ``task.json``: ``metrics``, ``{name: {"higher_is_better": …}}``, and ``labels`` where classes have
        names."""
