"""Where the tail gets its input: from the cache, or from the trunk for samples that are not in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedfit.models.batch import Batch
from fedfit.models.digest import config_facts, digest
from fedfit.models.precision import autocast
from fedfit.models.split import SplitModel
from fedfit.models.trunk_cache import TrunkCache
from fedfit.settings import TrunkCacheSettings
from fedfit.units import BYTES_PER_GIGABYTE

_CHUNK_TOKENS = 4096  # tokens a trunk call: enough for full speed, small beside the model
_LEAST_TOKENS = 64  # below about 15 rows the matrix library takes other kernels, which round otherwise


class TokenSamples(Protocol):
    """What is needed of tokenised samples; ``data.tokenize.Samples`` has it."""

    @property
    def hashes(self) -> list[bytes]:
        """16 bytes a sample, of its token ids."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a sample, ``(samples,)``."""

    def ids_of(self, index: int) -> np.ndarray:
        """Token ids of one sample, ``(tokens,)``."""

    def segments_of(self, index: int) -> np.ndarray | None:
        """Segments of one sample, ``(tokens,)``, or ``None``."""


class Trunk:
    """Hidden states at the cut by sample, each computed once while the cache can keep it."""

    def __init__(self, model: SplitModel, cache: TrunkCache | None, dtype: str, precision: str = "fp32") -> None:
        self._model = model
        self._cache = cache
        self._dtype = np.dtype(dtype)
        self._precision = precision

    def prepare(self, samples: TokenSamples, indices: Iterable[int]) -> None:
        """Fills the cache for ``indices``, in large batches of equal length."""
        if self._cache is None or not self._cache.writable:
            return
        wanted = [index for index in indices if samples.hashes[index] not in self._cache]
        for index, states in self._compute(samples, wanted):
            self._cache.put(samples.hashes[index], states)
            if not self._cache.writable:
                return

    def batch(self, samples: TokenSamples, indices: np.ndarray) -> Batch:
        """The samples at ``indices`` at the cut, on the model's device."""
        lengths = samples.lengths[indices]
        padded = np.zeros((len(indices), int(lengths.max()), self._model.hidden_size), dtype=np.float32)
        missing: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            states = self._cache.get(samples.hashes[index]) if self._cache is not None else None
            if states is None:
                missing.setdefault(int(index), []).append(row)
            else:
                padded[row, : len(states)] = states
        for index, states in self._compute(samples, list(missing)):
            padded[missing[index], : len(states)] = states
        device = self._model.device
        segments = self._segments(samples, indices, padded.shape[1])
        return Batch(
            torch.from_numpy(padded).to(device, non_blocking=True),
            torch.from_numpy(lengths).to(device),
            None if segments is None else segments.to(device),
        )

    def _segments(self, samples: TokenSamples, indices: np.ndarray, tokens: int) -> Tensor | None:
        """``Batch.segments``."""
        found = [samples.segments_of(int(index)) for index in indices]
        if self._model.family.decoder is None or found[0] is None:
            return None
        padded = np.full((len(found), tokens), -1, dtype=np.int64)
        for row, segments in enumerate(found):
            assert segments is not None
            padded[row, : len(segments)] = segments
        return torch.from_numpy(padded)

    def _compute(self, samples: TokenSamples, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """States of ``indices`` in the stored type, computed in unpadded batches of one length.

        A small batch is filled up with copies, so that a sample's states are the same to the bit whatever else is computed
        with it: a run without a cache, or one killed while filling it, then equals any other.
        """
        lengths = samples.lengths
        for chunk in self._chunks(samples, indices):
            rows_needed = -(-_LEAST_TOKENS // int(lengths[chunk[0]]))
            filled = chunk * -(-rows_needed // len(chunk))
            ids = torch.from_numpy(np.stack([samples.ids_of(index) for index in filled])).long()
            found = [samples.segments_of(index) for index in filled]
            segments = None if found[0] is None else torch.from_numpy(np.stack(found)).long()  # type: ignore[arg-type]
            device = self._model.device
            with autocast(device, self._precision):
                states = self._model.trunk(ids.to(device), None if segments is None else segments.to(device))
            # Rounded to the stored type here as well, so that a run that fills the cache equals one that reads it.
            rows = states.float().cpu().numpy().astype(self._dtype)
            yield from zip(chunk, rows[: len(chunk)], strict=True)

    def _chunks(self, samples: TokenSamples, indices: list[int]) -> Iterator[list[int]]:
        """``equal_length_chunks``, apart for samples with several continuations: another kernel computes those."""
        apart: tuple[list[int], list[int]] = ([], [])
        for index in indices:
            segments = samples.segments_of(index) if self._model.family.decoder is not None else None
            apart[segments is not None and int(segments.max(initial=0)) > 1].append(index)
        for some in apart:
            yield from equal_length_chunks(samples.lengths, some, _CHUNK_TOKENS)


def equal_length_chunks(lengths: np.ndarray, indices: list[int], tokens: int) -> Iterator[list[int]]:
    """``indices`` grouped by length, longest first, in chunks of at most ``tokens`` tokens (at least one sample)."""
    by_length: dict[int, list[int]] = {}
    for index in indices:
        by_length.setdefault(int(lengths[index]), []).append(index)
    for length in sorted(by_length, reverse=True):
        group = by_length[length]
        rows = max(1, tokens // length)
        for start in range(0, len(group), rows):
            yield group[start : start + rows]


def open_trunk(model: SplitModel, settings: TrunkCacheSettings, folder: Path, precision: str = "fp32") -> Trunk:
    """The trunk of ``model`` with its cache under ``folder``; none when disabled, or when nothing lies below the cut."""
    dtype = settings.dtype if settings.enabled and model.cut else "float32"
    if not settings.enabled or model.cut == 0:
        return Trunk(model, None, dtype, precision)
    max_bytes = int(settings.max_gigabytes * BYTES_PER_GIGABYTE)
    cache = TrunkCache(folder, trunk_key(model, dtype, precision), model.hidden_size, dtype, max_bytes)
    return Trunk(model, cache, dtype, precision)


def trunk_key(model: SplitModel, dtype: str, precision: str = "fp32") -> str:
    """32 hex digits over all that the states depend on beside the sample: the weights themselves, not the model's name."""
    weights, facts = digest(model.trunk_state()), config_facts(model.config)
    parts = [weights, facts, model.cut, dtype, precision, model.device.type, torch.__version__]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
