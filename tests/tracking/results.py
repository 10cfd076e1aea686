"""Round results made by hand."""

from typing import Any

from fedfit.records import DeviceRecord, RoundRecord, RoundResult
from fedfit.tracking.needs import Fingerprint
from tests.builders import random_update

FINGERPRINT = Fingerprint({"seed": 1}, "data", "weights")


def result(number: int, **changes: Any) -> RoundResult:
    """Round ``number`` with two devices, none in round 0; its state differs from that of every other round."""
    devices = tuple(_device(number, device) for device in range(2 if number else 0))
    values: dict[str, Any] = {
        "round": number,
        "test_accuracy": 0.5 + number / 100,
        "test_macro_f1": 0.4,
        "test_loss": 1.25,
        "train_loss": 1.5 if number else None,
        "uplink_bytes": 10 * len(devices),
        "downlink_bytes": 20 * len(devices),
        "seconds": 0.5,
        "devices": len(devices),
        "refused": 0,
    }
    return RoundResult(RoundRecord(**{**values, **changes}), devices, random_update(seed=number))


def _device(number: int, device: int) -> DeviceRecord:
    return DeviceRecord(number, device, 5, 1, 1.5, 10, 20, 0.25)
