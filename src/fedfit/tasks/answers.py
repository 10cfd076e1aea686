"""How near generated answers are to their references."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

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
