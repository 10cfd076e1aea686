"""One round: choose, plan, exchange, average, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord, RoundRecord, RoundResult, Score, Update
from fedfit.rounds.federation import Federation
from fedfit.rounds.server import Exchange, choose_devices


def initial_result(federation: Federation, adapter: Update) -> RoundResult:
    """Round 0: the untrained global model, before anything is sent."""
    started = time.perf_counter()
    state = federation.rule.init(adapter)
    score = federation.score(state, 0)
    return RoundResult(_record(0, score, [], time.perf_counter() - started), (), state)


def run_round(federation: Federation, state: object, number: int) -> RoundResult:
    """Round ``number`` from ``state``. Without one usable update the state stays as it was."""
    started = time.perf_counter()
    eligible = [device for device, samples in enumerate(federation.samples) if samples]
    devices = choose_devices(eligible, federation.devices_per_round, federation.seed, number)
    clock = federation.clock
    plan = clock.plan(number, devices) if clock is not None else None
    exchange = Exchange(federation, number, plan)
    watch = Stopwatch()
    resized = federation.rule.begin(state, number)
    if plan is not None and plan.rank is not None:
        resized = federation.rule.resize(resized, federation.size(plan.rank), derive_seed(federation.seed, "resize", number))
    after = federation.rule.apply(resized, watch.waiting(exchange.updates(resized, devices)))
    server_seconds = watch.own_seconds + exchange.dispatch_seconds
    if any(record.refused is None for record in exchange.records):
        state = after
    score = federation.score(state, number)
    record = _record(number, score, exchange.records, time.perf_counter() - started)
    record = replace(record, server_seconds=server_seconds)
    if clock is not None and plan is not None:
        spent_j = sum(device.cost.spent_j for device in exchange.records if device.cost is not None)
        record = replace(record, rank=plan.rank, simulated_s=clock.duration_s(exchange.records), simulated_j=spent_j)
    return RoundResult(record, tuple(exchange.records), state)


class Stopwatch:
    """Measures what its maker does from now on, but for what it waits for a stream."""

    def __init__(self) -> None:
        self._started, self._waited = time.perf_counter(), 0.0

    @property
    def own_seconds(self) -> float:
        """Since the beginning, without waiting."""
        return time.perf_counter() - self._started - self._waited

    def waiting(self, stream: Iterator[Update]) -> Iterator[Update]:
        """``stream``, one at a time, and nothing of it kept."""
        while True:
            asked = time.perf_counter()
            update = next(stream, None)
            self._waited += time.perf_counter() - asked
            if update is None:
                return
            yield update
            del update  # before the next is made


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
