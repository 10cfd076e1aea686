"""Generated answers, and how near they are to their references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedfit.core.task import Metric, Score, Speaker
from fedfit.data.tokenize import Samples
from fedfit.errors import DataError

SHOWN_ANSWERS = 10
"""Answers that a report shows."""


def rouge_l(references: Sequence[str], answers: Sequence[str]) -> float:
    """The mean F-measure of the longest common subsequence of words, stemmed: ``rouge_score``'s ROUGE-L.

    Raises:
        DataError: when the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise DataError(
            "task.generate_samples: ROUGE-L needs the package rouge-score; pip install 'fedfit[llm]', or set it to 0"
        ) from None
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return fmean(
        scorer.score(reference, answer)["rougeL"].fmeasure for reference, answer in zip(references, answers, strict=True)
    )


@dataclass(frozen=True)
class GreedyAnswers:
    """Answers to the first ``rows`` samples of a set, of at most ``max_new_tokens`` tokens."""

    rows: int
    max_new_tokens: int

    def score(self, speaker: Speaker, samples: Samples, rows: np.ndarray) -> Score:
        """ROUGE-L."""
        chosen = rows[: self.rows]
        answers = speaker.answers([prompt_of(samples, row) for row in chosen], self.max_new_tokens)
        return {"rouge_l": Metric(rouge_l([speaker.text(response_of(samples, row)) for row in chosen], answers))}

    def shown(self, speaker: Speaker, samples: Samples) -> list[str]:
        """The first ``SHOWN_ANSWERS`` at most."""
        rows = range(min(self.rows, SHOWN_ANSWERS, len(samples)))
        return speaker.answers([prompt_of(samples, row) for row in rows], self.max_new_tokens)


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
