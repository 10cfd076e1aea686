"""What a language model is to predict: the tokens of every continuation, each read at the token before it.

A sample is a prompt, its tokens in segment 0, and one or more continuations of it in segments 1, 2, … (``Samples.segments``).
The first token of a continuation is predicted from the last one of the prompt, any other from its predecessor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedfit.data.tokenize import Samples


@dataclass(frozen=True)
class TokenTargets:
    """The targets of a batch, flat: row by row, and in the order of the tokens.

    Args:
        index: token that each target is read at, ``(batch, most targets of a row)``; -1 where a row has fewer.
        ids: the targets, int64 ``(targets,)``.
        rows: the batch's row of each target, int64 ``(targets,)``.
        segments: the continuation of each target, from 0, int64 ``(targets,)``.
        batch: rows.
        labels: the samples' own numbers ``(batch,)``, if they have any.
        reference: what the reference model says of the batch, for tasks that compare with one.
    """

    index: Tensor
    ids: Tensor
    rows: Tensor
    segments: Tensor
    batch: int
    labels: Tensor | None = None
    reference: Any = None

    def with_reference(self, reference: Any) -> TokenTargets:
        """These targets beside what a reference model says of them."""
        return replace(self, reference=reference)

    def sums(self, values: Tensor, segments: int) -> Tensor:
        """``values`` ``(targets,)`` added up by row and continuation: ``(batch, segments)``."""
        total = values.new_zeros(self.batch * segments)
        return total.index_add(0, self.rows * segments + self.segments, values).view(self.batch, segments)

    def counts(self, segments: int) -> Tensor:
        """Targets of each row and continuation, float32 ``(batch, segments)``."""
        return self.sums(torch.ones_like(self.ids, dtype=torch.float32), segments)


def token_targets(samples: Samples, rows: np.ndarray, device: torch.device) -> TokenTargets:
    """The targets of ``samples`` at ``rows``."""
    starts, stops = samples.offsets[rows], samples.offsets[rows + 1]
    lengths = stops - starts
    assert samples.segments is not None
    flat = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    row_of = np.repeat(np.arange(len(rows)), lengths)
    place = flat - np.repeat(starts, lengths)
    segment = samples.segments[flat].astype(np.int64)
    prompt = np.bincount(row_of, weights=segment == 0, minlength=len(rows)).astype(np.int64)
    begins = np.diff(segment, prepend=0) != 0
    read_at = np.where(begins, prompt[row_of] - 1, place - 1)
    wanted = segment > 0
    row_of, read_at = row_of[wanted], read_at[wanted]
    counts = np.bincount(row_of, minlength=len(rows))
    index = np.full((len(rows), max(int(counts.max()), 1)), -1, dtype=np.int64)
    index[np.arange(index.shape[1]) < counts[:, None]] = read_at
    labels = None if samples.labels is None else torch.from_numpy(samples.labels[rows]).to(device)
    parts = (index, samples.token_ids[flat][wanted].astype(np.int64), row_of, segment[wanted] - 1)
    read, ids, row_ids, segments = (torch.from_numpy(part).to(device) for part in parts)
    return TokenTargets(read, ids, row_ids, segments, len(rows), labels)


def target_counts(samples: Samples) -> np.ndarray:
    """Targets of each sample, int64 ``(samples,)``."""
    assert samples.segments is not None
    totals = np.concatenate([[0], np.cumsum(samples.segments > 0)])
    counts: np.ndarray = totals[samples.offsets[1:]] - totals[samples.offsets[:-1]]
    return counts
