"""The values that cross rooms. Frozen, and without behaviour beyond arithmetic on themselves.

This file starts without torch: tensors are named in types only, so that ``fedfit report`` need not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Factors:
    """The LoRA pair of one adapted matrix: ``W = W0 + scale · B @ A``.

    ``a`` is ``(rank, input)``, ``b`` is ``(output, rank)``, ``scale`` is α/r.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Update:
    """Named tensors in two groups: adapter factors by module, and the head; what is trained and what travels.

    ``weight`` is the device's share before normalisation (its number of samples); ``metrics`` are plain numbers.
    """

    factors: Mapping[str, Factors]
    head: Mapping[str, torch.Tensor]
    weight: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Packet:
    """An encoded update, as it goes over the air."""

    payload: bytes

    @property
    def size_bytes(self) -> int:
        """Length of what is sent."""
        return len(self.payload)


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves: the server's state, from which the next goes on, and the lines to be recorded."""

    record: RoundRecord
    devices: tuple[DeviceRecord, ...]
    state: Any


@dataclass(frozen=True)
class Order:
    """Server to device: train this in this round."""

    round: int
    device: int
    packet: Packet


@dataclass(frozen=True)
class Reply:
    """Device to server: the trained update, or why there is none. ``seconds`` is the device's own wall time."""

    round: int
    device: int
    packet: Packet | None
    refusal: str | None
    seconds: float


@dataclass(frozen=True)
class Score:
    """How well a model does on a test set. ``loss`` is the mean cross-entropy in nats a sample."""

    accuracy: float
    macro_f1: float
    loss: float


@dataclass(frozen=True)
class DeviceRecord:
    """One device in one round; a line of ``devices.jsonl``. ``refused`` is the reason, or ``None`` when averaged."""

    round: int
    device: int
    samples: int
    steps: int
    train_loss: float | None
    uplink_bytes: int
    downlink_bytes: int
    seconds: float
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values."""
        return asdict(self)


@dataclass(frozen=True)
class RoundRecord:
    """One round of the whole federation; a line of ``rounds.jsonl``. Round 0 is the untrained global model."""

    round: int
    test_accuracy: float
    test_macro_f1: float
    test_loss: float
    train_loss: float | None
    uplink_bytes: int
    downlink_bytes: int
    seconds: float
    devices: int = 0
    refused: int = 0

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values."""
        return asdict(self)
