"""The values that cross rooms. Frozen, and without behaviour beyond arithmetic on themselves.

This file starts without torch: tensors are named in types only, so that ``fedfit report`` need not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

Amount = TypeVar("Amount", float, "np.ndarray")
"""Of one device, or an array over a fleet."""


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

    ``weight`` is the device's share before normalisation (its number of samples); ``metrics`` are plain numbers. ``origin`` is
    set by the server on what comes back, and does not travel. ``extra`` are tensors of the rule's own that travel beside.
    """

    factors: Mapping[str, Factors]
    head: Mapping[str, torch.Tensor]
    weight: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Which device an update is from, and the seed that its dispatch was drawn from: a rule can draw the same again."""

    device: int
    seed: int


@dataclass(frozen=True)
class ServerState:
    """The state of a rule that keeps more than the global adapter: named tensors and numbers beside it."""

    adapter: Update
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


PARTS = frozenset({"a", "b", "head"})
"""The parts of an update that are trained, and that travel, together."""


@dataclass(frozen=True)
class Task:
    """What a device trains from, made of what it was sent and of what it remembers.

    ``base`` is what has been merged into the frozen weights, ``W0 + base``, ``(output, input)`` by module. The others are by
    the names of ``aggregation.base.named_tensors``: ``mask`` multiplies a gradient before it is clipped, ``correction`` is
    added to it after.
    """

    update: Update
    base: Mapping[str, torch.Tensor] = field(default_factory=dict)
    mask: Mapping[str, torch.Tensor] = field(default_factory=dict)
    correction: Mapping[str, torch.Tensor] = field(default_factory=dict)
    penalty: Penalty | None = None


@dataclass(frozen=True)
class Penalty:
    """``strength · ‖B[:, first:]‖ · ‖A[first:]‖``, summed over the modules, as a term of a device's loss."""

    strength: float
    first: int


@dataclass(frozen=True)
class Memory:
    """What a device keeps from one of its rounds to the next."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterSize:
    """The rank that is trained, and the scale s in ``W0 + s·B·A`` that goes with it."""

    rank: int
    scale: float


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
    """Server to device: train these ``parts`` in this round, and send them back but for what stays at home. The packet may
    lack what the device has."""

    round: int
    device: int
    packet: Packet
    parts: frozenset[str] = PARTS


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
class Charge(Generic[Amount]):
    """Time and energy of a round by their parts: equations 1, 3, 4, 8, 9 and ξ of the system model."""

    compute_s: Amount
    uplink_s: Amount
    downlink_s: Amount
    compute_j: Amount
    uplink_j: Amount
    circuit_j: Amount

    @property
    def latency_s(self) -> Amount:
        """Equation 11."""
        latency_s: Amount = self.compute_s + self.uplink_s + self.downlink_s
        return latency_s

    @property
    def energy_j(self) -> Amount:
        """Equation 12."""
        energy_j: Amount = self.compute_j + self.uplink_j + self.circuit_j
        return energy_j


@dataclass(frozen=True)
class LinkState:
    """One device's radio in one round: power gains, the rates they give (equations 6, 10), and which server is on the line."""

    uplink_gain: float
    downlink_gain: float
    uplink_bits_per_s: float
    downlink_bits_per_s: float
    server: int = 0


@dataclass(frozen=True)
class Assignment:
    """What a plan asks of one device in one round.

    ``refusal`` says why it cannot take part, or is ``None``; a device that cannot has rank 0 and frequency 0. ``binding`` is
    what stops the device's own next rank: ``deadline``, ``energy``, ``frequency`` or ``max_rank``.
    """

    rank: int
    frequency_hz: float
    binding: str
    link: LinkState
    refusal: str | None = None


@dataclass(frozen=True)
class Plan:
    """A round's plan: ``assignments`` by device, and the common ``rank``, ``None`` where devices have their own."""

    rank: int | None
    assignments: Mapping[int, Assignment]


@dataclass(frozen=True)
class DeviceCost:
    """What one round cost one device: by the ``formula`` (equation 5 for what is sent), and by the bytes really ``sent``.

    ``spent_j`` is what the device lost: the energy of the charge that decides, or less where budget or battery ended first.
    """

    frequency_hz: float
    binding: str
    link: LinkState
    formula: Charge[float]
    sent: Charge[float]
    spent_j: float


@dataclass(frozen=True)
class DeviceRecord:
    """One device in one round; a line of ``devices.jsonl``. ``refused`` is the reason, or ``None`` when averaged.

    ``rank`` and ``cost`` are there where rounds are planned.
    """

    round: int
    device: int
    samples: int
    steps: int
    train_loss: float | None
    uplink_bytes: int
    downlink_bytes: int
    seconds: float
    refused: str | None = None
    rank: int | None = None
    cost: DeviceCost | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> DeviceRecord:
        """The inverse of ``to_json``.

        Raises:
            TypeError: for unknown or missing keys.
        """
        values = dict(line)
        if values.get("cost") is not None:
            cost = dict(values["cost"])
            cost["link"] = LinkState(**cost["link"])
            cost["formula"], cost["sent"] = Charge(**cost["formula"]), Charge(**cost["sent"])
            values["cost"] = DeviceCost(**cost)
        return cls(**values)


@dataclass(frozen=True)
class RoundRecord:
    """One round of the whole federation; a line of ``rounds.jsonl``. Round 0 is the untrained global model.

    ``rank`` is the common one; ``simulated_s`` and ``simulated_j`` are the round's duration and the energy of all its
    devices by the system model. They are there where rounds are planned; ``seconds`` is always the wall time, and
    ``server_seconds`` that of the rule's own work on the server.
    """

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
    rank: int | None = None
    simulated_s: float | None = None
    simulated_j: float | None = None
    server_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> RoundRecord:
        """The inverse of ``to_json``.

        Raises:
            TypeError: for unknown or missing keys.
        """
        return cls(**line)
