"""The values that cross rooms. Frozen, and without behaviour beyond arithmetic on themselves.

This file starts without torch, so that ``fedfit report`` need not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fedfit.core.task import Metric
from fedfit.core.update import ServerState

if TYPE_CHECKING:
    import numpy as np

Amount = TypeVar("Amount", float, "np.ndarray")
"""Of one device, or an array over a fleet."""


@dataclass(frozen=True)
class RoundResult:
    """A round's outcome: the server's state, from which the next goes on, and the lines to be recorded."""

    record: RoundRecord
    devices: tuple[DeviceRecord, ...]
    state: ServerState
    scores: tuple[DeviceScore, ...] = ()


@dataclass(frozen=True)
class DeviceScore:
    """The metrics of one device's model on its own test part after a round; a line of ``scores.jsonl``."""

    round: int
    device: int
    samples: int
    metrics: Mapping[str, Metric]

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values, flat."""
        values = {name: metric.value for name, metric in self.metrics.items()}
        return {"round": self.round, "device": self.device, "samples": self.samples, **values}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> DeviceScore:
        """The inverse of ``to_json``; directions are those that the names have.

        Raises:
            KeyError, TypeError: for a line that is none.
        """
        _check_object(line)
        metrics = metrics_of({name: value for name, value in line.items() if name not in ("round", "device", "samples")})
        return cls(line["round"], line["device"], line["samples"], metrics)


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
    """The cost of one round for one device: by the ``formula`` (equation 5 for the bits), and by the bytes really ``sent``.

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
    """One device in one round; a line of ``devices.jsonl``.

    Args:
        refused: the reason that its update does not count; ``None`` when it does.
        rank, cost: of planned rounds.
        stray: a reply beside the device's order (a second one, or one of another round).
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
    stray: bool = False

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values."""
        line = asdict(self)
        if not self.stray:
            del line["stray"]
        return line

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


PREFIXES = ("test_", "validation_", "personal_", "shared_", "fused_")
"""Beginnings of a metric's full name: the set, or the model, that it was measured on."""

_LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "kl", "spread")


@dataclass(frozen=True)
class RoundRecord:
    """One round of the whole federation; a line of ``rounds.jsonl``. Round 0 is the untrained global model.

    Args:
        metrics: by full name, ``test_accuracy``; empty in a round without evaluation.
        train_loss: mean over the devices that counted; ``None`` without one.
        seconds: wall time of the round.
        devices, refused: devices that were asked, and those of them whose update did not count.
        rank: the common one of a planned round.
        simulated_s, simulated_j: the round's duration and the energy of all its devices by the system model, of planned rounds.
        server_seconds: wall time of the rule's own work on the server.
    """

    round: int
    metrics: Mapping[str, Metric]
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

    def value(self, name: str) -> float | None:
        """The metric of the full name ``name``; ``None`` where it was not measured."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.value

    def with_costs(
        self, server_seconds: float, rank: int | None, simulated_s: float | None, simulated_j: float | None
    ) -> RoundRecord:
        """The same record with what the server and the fleet spent."""
        return replace(self, server_seconds=server_seconds, rank=rank, simulated_s=simulated_s, simulated_j=simulated_j)

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values, flat: a metric is a key like any other."""
        line: dict[str, Any] = {"round": self.round, **{name: metric.value for name, metric in self.metrics.items()}}
        return line | {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("round", "metrics")}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> RoundRecord:
        """The inverse of ``to_json``; directions are those that the names have.

        Raises:
            TypeError: for unknown or missing keys.
        """
        _check_object(line)
        values = {name: value for name, value in line.items() if not name.startswith(PREFIXES)}
        return cls(metrics=metrics_of({name: value for name, value in line.items() if name not in values}), **values)


def _check_object(line: object) -> None:
    """Raises a ``TypeError`` for JSON that is no object: a line of a damaged file."""
    if not isinstance(line, dict):
        raise TypeError(f"{line!r} is not an object")


def metrics_of(values: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics by full name, with the directions that their names have; a value that was not measured is left out.

    Raises:
        TypeError: for a value that is not a number.
    """
    wrong = {name: value for name, value in values.items() if value is not None and type(value) not in (int, float)}
    if wrong:
        raise TypeError(f"not numbers: {wrong}")
    return {name: Metric(value, higher_is_better(name)) for name, value in values.items() if value is not None}


def higher_is_better(name: str) -> bool:
    """The direction that a metric's name has: a loss, a perplexity or a spread is better when lower."""
    return not any(word in name for word in _LOWER_IS_BETTER)
