"""Texts to token ids, kept flat: one array for all samples, since lists of numbers cost ten times the memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import xxhash

from fedfit.data.corpus import TextSet

BATCH_TEXTS = 1000
"""Texts a call of the tokenizer: enough to occupy its threads, without lists of every sample's ids at once."""


@dataclass(frozen=True)
class Samples:
    """Tokenized samples, unpadded and with their special tokens.

    ``token_ids`` is int32 ``(tokens,)``, all samples one after the other; sample ``i`` is
    ``token_ids[offsets[i]:offsets[i + 1]]``. ``segments`` is int8 ``(tokens,)``, or ``None``: an encoder's first or
    second text; a decoder's prompt, 0, and its continuations, from 1. ``offsets`` is int64 ``(samples + 1,)``, ``labels`` int64
    ``(samples,)``, or ``None``: a number of each sample that its task gives it, such as its class. ``hashes`` has 16 bytes a
    sample: the xxh3 of its ids, the sample's name in the trunk cache. ``scored`` has a second form of the same samples, if
    a task is scored by one: prompts with all their possible answers.
    """

    token_ids: np.ndarray
    segments: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    hashes: list[bytes]
    scored: Samples | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def classes(self) -> np.ndarray:
        """The labels of samples that have some, int64 ``(samples,)``."""
        assert self.labels is not None, "these samples have no classes"
        return self.labels

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 ``(samples,)``."""
        return np.diff(self.offsets)

    def ids_of(self, index: int) -> np.ndarray:
        """Token ids of one sample, int32 ``(tokens,)``; a view."""
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    def segments_of(self, index: int) -> np.ndarray | None:
        """Segments of one sample, int8 ``(tokens,)``, or ``None``."""
        return None if self.segments is None else self.segments[self.offsets[index] : self.offsets[index + 1]]

    def select(self, indices: Sequence[int] | np.ndarray) -> Samples:
        """The samples at ``indices``, in that order; a copy."""
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[chosen]
        offsets = _offsets(lengths)
        # Position of every token kept: its sample's start in the source, plus its place within the sample.
        positions = np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Samples(
            token_ids=self.token_ids[positions],
            segments=None if self.segments is None else self.segments[positions],
            offsets=offsets,
            labels=None if self.labels is None else self.labels[chosen],
            hashes=[self.hashes[index] for index in chosen],
            scored=None if self.scored is None else self.scored.select(chosen),
        )


def tokenize(texts: TextSet, tokenizer: Any, max_tokens: int) -> Samples:
    """Tokenize with a fast Hugging Face ``tokenizer``: special tokens added, cut to ``max_tokens``, not padded.

    An empty text becomes its special tokens alone. Of a sentence pair the longer one is cut first.
    """
    ids: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    lengths: list[int] = []
    pairs = texts.fields.get("pair")
    for start in range(0, len(texts), BATCH_TEXTS):
        stop = start + BATCH_TEXTS
        encoded = tokenizer(
            list(texts.fields["text"][start:stop]),
            list(pairs[start:stop]) if pairs is not None else None,
            truncation=True,
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
        )
        lengths.extend(map(len, encoded["input_ids"]))
        ids.append(_flat(encoded["input_ids"], np.int32))
        if "token_type_ids" in encoded:
            segments.append(_flat(encoded["token_type_ids"], np.int8))
    offsets = _offsets(np.array(lengths, dtype=np.int64))
    token_ids = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
    joined = np.concatenate(segments) if segments else None
    return Samples(token_ids, joined, offsets, texts.labels, _hashes(token_ids, joined, offsets))


def _flat(rows: Iterable[Iterable[int]], dtype: type[np.generic]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), dtype=dtype)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _hashes(token_ids: np.ndarray, segments: np.ndarray | None, offsets: np.ndarray) -> list[bytes]:
    # The byte order is fixed: a cache may lie on a disk that machines of both kinds read.
    ids = token_ids.astype("<i4", copy=False)
    hashes: list[bytes] = []
    for start, stop in pairwise(offsets):
        digest = xxhash.xxh3_128(ids[start:stop].tobytes())
        if segments is not None:
            digest.update(segments[start:stop].tobytes())
        hashes.append(digest.digest())
    return hashes
