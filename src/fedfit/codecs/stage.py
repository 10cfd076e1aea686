"""The contract of a stage of a codec chain: a vector of float32 to fewer or shorter numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from fedfit.errors import UpdateRefused

Shapes = Sequence[Sequence[int]]
"""Of the tensors that a vector is made of, one after another; none where it is not made of whole tensors."""


@dataclass(frozen=True)
class Known:
    """What a stage may use beside the vector.

    Args:
        reference: ``(n,)``, what both sides have, entry by entry; zeros where they have nothing.
        seed: of the sender's draws.
        shapes: of the tensors in the vector.
        kept: what the same stage of the sender kept of its last packet.
    """

    reference: Tensor
    seed: int = 0
    shapes: Shapes = ()
    kept: Tensor | None = None


@dataclass(frozen=True)
class Coded:
    """What a stage makes of a vector.

    Args:
        values: what the next stage goes on with.
        beside: tensors that travel beside them.
        kept: what the sender keeps for its next packet.
    """

    values: Tensor
    beside: Mapping[str, Tensor]
    kept: Tensor | None = None


class Stage(Protocol):
    """One step of a chain."""

    @property
    def order(self) -> int:
        """Its place: 0 what goes on with differences, 1 what makes fewer numbers, 2 what rounds them. One of each at most."""

    @property
    def reaches(self) -> int:
        """The last place that it takes: ``order``, or 2 for what picks and rounds in one."""

    @property
    def lossless(self) -> bool:
        """Whether ``decode`` gives back every entry, to float tolerance at least."""

    def length(self, entries: int, shapes: Shapes, beside: Mapping[str, Tensor]) -> int:
        """The number of values that it makes of ``entries``, so that a receiver can hold a packet to it; ``beside`` is what
        travelled.

        Raises:
            UpdateRefused: for tensors beside that say nothing sensible.
        """

    def bits(self, bits: float) -> float:
        """Bits an entry on the mean, when each of its values takes ``bits``; the most, where it depends on the numbers."""

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """The coded form of ``vector`` ``(n,)``."""

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """The vector ``(entries,)`` that the receiver sees.

        Raises:
            UpdateRefused: for tensors of other shapes, types or ranges than ``encode`` makes.
        """


NOTHING: Mapping[str, Tensor] = MappingProxyType({})
"""No tensors beside the values."""


def check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], kind: object) -> Tensor:
    """Holds a tensor of a packet to its shape and type.

    Raises:
        UpdateRefused: naming it.
    """
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != kind:
        found = "nothing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
        raise UpdateRefused(f"{name}: got {found}, wanted {shape} {kind}")
    return tensor
