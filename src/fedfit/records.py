"""What a round leaves behind: its result, and the lines of the run folder's files. Frozen values.

This file starts without torch, so that ``fedfit report`` need not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from fedfit.core.task import Metric
from fedfit.core.update import Fact, ServerState
from fedfit.metric_names import PREFIXES, metrics_of
from fedfit.plans import Charge, DeviceCost, LinkState


@dataclass(frozen=True)
class RoundResult:
    """A round's outcome: the server's state, from which the next goes on, and the lines to be recorded."""

    record: RoundRecord
    devices: tuple[DeviceRecord, ...]
    state: ServerState
    scores: tuple[DeviceScore, ...] = ()


@dataclass(frozen=True)
class DeviceScore:
    """The metrics of one device's models on its own test part after a round; a line of ``scores.jsonl``.

    Args:
        facts: how its models came about, as a method of personalisation says it: weights of a fusion, why there is none.
    """

    round: int
    device: int
    samples: int
    metrics: Mapping[str, Metric]
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The line's keys and values, flat but for ``facts``, which is left out where there are none."""
        values = {name: metric.value for name, metric in self.metrics.items()}
        facts = {"facts": dict(self.facts)} if self.facts else {}
        return {"round": self.round, "device": self.device, "samples": self.samples, **values, **facts}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> DeviceScore:
        """The inverse of ``to_json``; directions are those that the names have.

        Raises:
            KeyError, TypeError: for a line that is none.
        """
        _check_object(line)
        own = ("round", "device", "samples", "facts")
        metrics = metrics_of({name: value for name, value in line.items() if name not in own})
        facts = line.get("facts", {})
        _check_object(facts)
        return cls(line["round"], line["device"], line["samples"], metrics, facts)


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
