"""Fewer numbers: the largest, or some drawn at random; and differences from what both sides have.

* ``top_k:share``: the entries of the largest sizes, over all tensors together. Biased: the rest is lost, unless error feedback
  keeps it (Stich et al., "Sparsified SGD with Memory", NeurIPS 2018, arXiv 1809.07599).
* ``random_k:share``: entries drawn without replacement, times n/k: ``E[decode(encode(x))] = x``, with the variance ``(n/k −
  1)·‖x‖²`` in all. The seed travels, not the places. Under error feedback they are sent as they are: see ``chain``.
* ``delta``: differences from the reference; for a reply what the order brought. Lossless but for float32's rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedfit.codecs.sparse import pack, unpack
from fedfit.codecs.stage import NOTHING, Coded, Known, Shapes, check_tensor


@dataclass(frozen=True)
class Delta:
    """Differences from the reference."""

    order: int = 0
    reaches: int = 0
    lossless: bool = True

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """As many."""
        return entries

    def bits(self, bits: float) -> float:
        """As they are."""
        return bits

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """Less the reference."""
        return Coded(vector - known.reference, {})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Plus the reference."""
        return check_tensor("values", coded.values, (entries,), torch.float32) + known.reference


@dataclass(frozen=True)
class _Share:
    share: float
    order: int = 1
    reaches: int = 1

    @property
    def lossless(self) -> bool:
        """With all entries alone."""
        return self.share >= 1

    def length(self, entries: int, shapes: Shapes = (), beside: Mapping[str, Tensor] = NOTHING) -> int:
        """k, at least one of any."""
        return min(entries, max(1, round(self.share * entries)))


@dataclass(frozen=True)
class TopK(_Share):
    """The entries of the largest sizes; of equal ones the first."""

    def bits(self, bits: float) -> float:
        """Its values, and their places in the shorter of two forms."""
        return self.share * bits + min(1.0, 32 * self.share)

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """Values in the order of their places, and the places."""
        order = vector.abs().argsort(descending=True, stable=True)  # NaN is the largest: it is not hidden from a check
        places = order[: self.length(len(vector))].sort().values
        return Coded(vector[places], {"places": pack(places, len(vector))})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Zeros in all other places."""
        count = self.length(entries)
        values = check_tensor("values", coded.values, (count,), torch.float32)
        places = unpack(coded.beside.get("places"), entries, count)
        return torch.zeros(entries).index_put((places,), values)


@dataclass(frozen=True)
class RandomK(_Share):
    """Entries drawn without replacement; ``scaled`` makes them unbiased."""

    scaled: bool = True

    @property
    def contraction(self) -> RandomK:
        """The entries as they are: what is left out is a part of the vector."""
        return replace(self, scaled=False)

    def bits(self, bits: float) -> float:
        """Its values alone."""
        return self.share * bits

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """Values, times n/k where they are scaled, and the seed of the places."""
        places = self._places(len(vector), known.seed)
        scale = len(vector) / max(1, len(places)) if self.scaled else 1.0
        return Coded(vector[places] * scale, {"seed": torch.tensor([known.seed])})

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """Zeros in all other places."""
        values = check_tensor("values", coded.values, (self.length(entries),), torch.float32)
        seed = check_tensor("seed", coded.beside.get("seed"), (1,), torch.int64)
        return torch.zeros(entries).index_put((self._places(entries, int(seed)),), values)

    def _places(self, entries: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(entries, generator=generator)[: self.length(entries)].sort().values
