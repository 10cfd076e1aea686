"""One round: choose, exchange, average, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfit.aggregation.base import Rule
from fedfit.codecs.base import Codec
from fedfit.records import DeviceRecord, RoundRecord, RoundResult, Score, Update
from fedfit.rounds.link import Link
from fedfit.rounds.server import Exchange, choose_devices


@dataclass(frozen=True)
class Federation:
    """What stays the same from round to round.

    ``samples`` is the number of samples by device; ``score`` evaluates a global adapter on the test set.
    """

    rule: Rule
    codec: Codec
    link: Link
    score: Callable[[Update], Score]
    samples: Sequence[int]
    devices_per_round: int
    seed: int


def initial_result(federation: Federation, adapter: Update) -> RoundResult:
    """Round 0: the untrained global model, before anything is sent."""
    started = time.perf_counter()
    state = federation.rule.init(adapter)
    score = federation.score(federation.rule.adapter(state))
    return RoundResult(_record(0, score, [], time.perf_counter() - started), (), state)


def run_round(federation: Federation, state: object, number: int) -> RoundResult:
    """Round ``number`` from ``state``. Without one usable update the state stays as it was."""
    started = time.perf_counter()
    eligible = [device for device, samples in enumerate(federation.samples) if samples]
    devices = choose_devices(eligible, federation.devices_per_round, federation.seed, number)
    exchange = Exchange(federation.rule, federation.codec, federation.link, federation.seed, number, federation.samples)
    state = federation.rule.apply(state, exchange.updates(state, devices))
    score = federation.score(federation.rule.adapter(state))
    record = _record(number, score, exchange.records, time.perf_counter() - started)
    return RoundResult(record, tuple(exchange.records), state)


def _record(number: int, score: Score, devices: Sequence[DeviceRecord], seconds: float) -> RoundRecord:
    used = [device for device in devices if device.refused is None and device.train_loss is not None]
    weights = sum(device.samples for device in used)
    train_loss = sum(device.samples * (device.train_loss or 0.0) for device in used) / weights if used else None
    return RoundRecord(
        round=number,
        test_accuracy=score.accuracy,
        test_macro_f1=score.macro_f1,
        test_loss=score.loss,
        train_loss=train_loss,
        uplink_bytes=sum(device.uplink_bytes for device in devices),
        downlink_bytes=sum(device.downlink_bytes for device in devices),
        seconds=seconds,
        devices=len(devices),
        refused=sum(device.refused is not None for device in devices),
    )
