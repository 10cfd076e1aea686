"""Samples of prompts with their continuations, cut to a length; rows that nothing is left of are counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xxhash

from fedfit.data.tokenize import Samples

Ids = Sequence[int]


def tree_samples(prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]], labels: np.ndarray | None = None) -> Samples:
    """Samples of token ids: segment 0 is the prompt, segment j its j-th continuation.

    Args:
        prompts: at least one token each.
        continuations: of each prompt; one without tokens keeps its number and is absent.
        labels: a number of each sample, int64 ``(samples,)``.
    """
    ids: list[int] = []
    segments: list[int] = []
    lengths: list[int] = []
    for prompt, rest in zip(prompts, continuations, strict=True):
        parts = [prompt, *rest]
        ids.extend(token for part in parts for token in part)
        segments.extend(number for number, part in enumerate(parts) for _ in part)
        lengths.append(sum(map(len, parts)))
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64))]).astype(np.int64)
    token_ids, segment_ids = np.array(ids, dtype=np.int32), np.array(segments, dtype=np.int8)
    return Samples(token_ids, segment_ids, offsets, labels, _hashes(token_ids, segment_ids, offsets))


def _hashes(ids: np.ndarray, segments: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """A sample's name in the trunk cache. States depend on the segments only where there are several continuations."""
    found = []
    for start, stop in pairwise(offsets):
        made = xxhash.xxh3_128(ids[start:stop].astype("<i4", copy=False).tobytes())
        if segments[start:stop].max(initial=0) > 1:
            made.update(segments[start:stop].tobytes())
        found.append(made.digest())
    return found


def common_prefix(parts: Sequence[Ids]) -> int:
    """Tokens that all ``parts`` begin with; one at least is left of each."""
    shortest = min(map(len, parts)) - 1
    first = parts[0]
    return next((k for k in range(shortest) if any(part[k] != first[k] for part in parts)), max(shortest, 0))


def left_out(count: int, which: str) -> list[str]:
    """A note of rows that are left out; none for no rows."""
    return [f"{count} rows {which} are left out"] if count else []
