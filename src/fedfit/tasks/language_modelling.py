"""Language modelling: every token of a text is predicted from those before it."""

from __future__ import annotations

import math
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
from fedfit.tasks.token_targets import TokenTargets
from fedfit.tasks.token_task import TokenTask
from fedfit.tasks.trees import tree_samples


class TokenScorer:
    """Gathers the cross-entropy of tokens."""

    def __init__(self) -> None:
        self._nats, self._tokens = 0.0, 0

    def add(self, output: Readout, targets: TokenTargets) -> None:
        """Takes in one batch."""
        self._nats -= float(output.log_probs(targets.ids).double().sum())
        self._tokens += len(targets.ids)

    def score(self) -> Score:
        """``loss`` in nats a token, and ``perplexity``."""
        loss = self._nats / self._tokens
        return {"loss": Metric(loss, higher_is_better=False), "perplexity": Metric(perplexity(loss), higher_is_better=False)}


class TextScorer(TokenScorer):
    """Gathers the bytes of the texts as well, which are the samples' labels."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def add(self, output: Readout, targets: TokenTargets) -> None:
        """Takes in one batch."""
        super().add(output, targets)
        assert targets.labels is not None
        self._bytes += int(targets.labels.sum())

    def score(self) -> Score:
        """``bits_per_byte`` too: independent of the tokenizer."""
        bits = self._nats / math.log(2) / max(self._bytes, 1)
        return {**super().score(), "bits_per_byte": Metric(bits, higher_is_better=False)}


@dataclass(frozen=True)
class LanguageModelling(TokenTask):
    """Texts, continued token by token."""

    name: str = "language_modelling"
    reference: None = None
    answers: None = None

    @property
    def headline(self) -> str:
        """The perplexity."""
        return "perplexity"

    def encode(self, texts: TextSet, tokenizer: Any, max_tokens: int) -> Encoded:
        """Texts as tokens, long ones in pieces of ``max_tokens``; the label of a sample is its number of bytes.

        The first token of a piece is not predicted: it is the tokenizer's first token where that has one, else the piece's own,
        whose bytes are then not counted.
        """
        begin = tokenizer.bos_token_id
        room = max_tokens - (begin is not None)
        prompts, rest, kept, sizes, blank = [], [], [], [], 0
        for row, text in enumerate(texts.fields["text"]):
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, places = encoded["input_ids"], encoded["offset_mapping"]
            blank += not ids
            for start in range(0, len(ids), room):
                piece, spans = ids[start : start + room], places[start : start + room]
                first = [begin] if begin is not None else piece[:1]
                predicted, spans = (piece, spans) if begin is not None else (piece[1:], spans[1:])
                if predicted:
                    prompts.append(first)
                    rest.append([predicted])
                    kept.append(row)
                    sizes.append(len(text[spans[0][0] : spans[-1][1]].encode()))
        if not kept:
            raise DataError(f"none of {len(texts)} texts has two tokens; check data.text")
        samples = tree_samples(prompts, rest, np.array(sizes, dtype=np.int64))
        return Encoded(samples, np.array(kept, dtype=np.int64), [f"{blank} rows without text are left out"] if blank else [])

    def loss(self, output: Readout, targets: TokenTargets) -> Tensor:
        """Mean cross-entropy a token of the batch, nats."""
        return -output.log_probs(targets.ids).mean()

    def scorers(self, samples: Samples) -> list[tuple[Samples, Scorer]]:
        """Loss, perplexity and bits a byte."""
        return [(samples, TextScorer())]

    def describe(self) -> Mapping[str, Any]:
        """The direction of each metric."""
        return {"metrics": {name: {"higher_is_better": False} for name in ("loss", "perplexity", "bits_per_byte")}}


def perplexity(loss: float) -> float:
    """``exp`` of a mean cross-entropy; infinite where that is too large."""
    return math.exp(loss) if loss < 700 else math.inf
