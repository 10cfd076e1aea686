"""The contract of a stage of a codec chain: a vector of float32 to fewer or shorter numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedfit.errors import UpdateRefused


@dataclass(frozen=True)
class Known:
    """What a stage may use beside the vector.

    Args:
        reference: ``(n,)``, what both sides have, entry by entry; zeros where they have nothing.
        seed: of the sender's draws.
    """

    reference: Tensor
    seed: int = 0


@dataclass(frozen=True)
class Coded:
    """What a stage makes of a vector: the values that the next one goes on with, and tensors that travel beside them."""

    values: Tensor
    beside: Mapping[str, Tensor]


class Stage(Protocol):
    """One step of a chain. Lengths depend on the vector's length alone, so that a receiver can hold a packet to them."""

    @property
    def order(self) -> int:
        """Its place: 0 what goes on with differences, 1 what picks entries, 2 what rounds them. One of each at most."""

    @property
    def lossless(self) -> bool:
        """Whether ``decode`` gives back every entry, to float tolerance at least."""

    def length(self, entries: int) -> int:
        """The number of values that it makes of ``entries``."""

    def bits(self, bits: float) -> float:
        """Bits an entry on the mean, when each of its values takes ``bits``."""

    def encode(self, vector: Tensor, known: Known) -> Coded:
        """The coded form of ``vector`` ``(n,)``."""

    def decode(self, coded: Coded, entries: int, known: Known) -> Tensor:
        """The vector ``(entries,)`` that the receiver sees.

        Raises:
            UpdateRefused: for tensors of other shapes, types or ranges than ``encode`` makes.
        """


def check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], kind: object) -> Tensor:
    """Holds a tensor of a packet to its shape and type.

    Raises:
        UpdateRefused: naming it.
    """
    if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != kind:
        found = "nothing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
        raise UpdateRefused(f"{name}: got {found}, wanted {shape} {kind}")
    return tensor
