"""Round results made by hand."""

from typing import Any

from fedfit.core.update import ServerState
from fedfit.metric_names import PREFIXES, metrics_of
from fedfit.records import DeviceRecord, RoundRecord, RoundResult
from fedfit.tracking.needs import Fingerprint
from tests.builders import random_update

FINGERPRINT = Fingerprint({"seed": 1}, "data", "weights")


def result(number: int, **changes: Any) -> RoundResult:
    """Round ``number`` with two devices, none in round 0; its state differs from that of every other round. ``changes`` are
    those of its line: ``test_accuracy`` is a key like any other."""
    devices = tuple(_device(number, device) for device in range(2 if number else 0))
    values: dict[str, Any] = {
        "round": number,
        "train_loss": 1.5 if number else None,
        "uplink_bytes": 10 * len(devices),
        "downlink_bytes": 20 * len(devices),
        "seconds": 0.5,
        "devices": len(devices),
        "refused": 0,
    }
    measured = {"test_accuracy": 0.5 + number / 100, "test_macro_f1": 0.4, "test_loss": 1.25}
    line = {**values, **measured, **changes}
    metrics = metrics_of({name: line.pop(name) for name in list(line) if name.startswith(PREFIXES)})
    return RoundResult(RoundRecord(metrics=metrics, **line), devices, ServerState(random_update(seed=number)))


def _device(number: int, device: int) -> DeviceRecord:
    return DeviceRecord(number, device, 5, 1, 1.5, 10, 20, 0.25)
