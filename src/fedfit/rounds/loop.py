"""The loop over rounds: choose, plan, exchange, average, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from fedfit.core.task import Metric
from fedfit.core.update import ServerState, Update
from fedfit.errors import TrainingStopped
from fedfit.plans import Plan
from fedfit.randomness import derive_seed
from fedfit.records import DeviceRecord, RoundRecord, RoundResult
from fedfit.rounds.federation import Federation
from fedfit.rounds.round import Exchange, choose_devices


def run(
    federation: Federation, initial: Update, rounds: int, last: RoundResult | None = None, failed: int = 0
) -> Iterator[RoundResult]:
    """Round 0 and every round after it. To stop early, stop asking.

    Args:
        initial: the freshly drawn global adapter.
        last: the round to go on from, when resumed; ``failed`` is then the number of rounds up to it, in a row, without one
            usable update.

    Raises:
        TrainingStopped: after ``federation.max_failed_rounds`` rounds in a row without one usable update.
    """
    if last is None:
        last = initial_result(federation, initial)
        yield last
    for number in range(last.record.round + 1, rounds + 1):
        last = run_round(federation, last.state, number)
        yield last
        failed = failed + 1 if last.record.refused == last.record.devices else 0
        if failed >= federation.max_failed_rounds:
            reason = next((device.refused for device in last.devices if device.refused), "no device took part")
            raise TrainingStopped(f"no update of the last {failed} rounds was usable; the first reason: {reason}")


def initial_result(federation: Federation, initial: Update) -> RoundResult:
    """Round 0: the untrained global model, before anything is sent."""
    started = time.perf_counter()
    state = federation.rule.server.init(initial)
    metrics, scores = federation.evaluator.evaluate(state, 0)
    record = RoundRecord(0, dict(metrics), None, 0, 0, time.perf_counter() - started)
    return RoundResult(record, (), state, tuple(scores))


def run_round(federation: Federation, state: ServerState, number: int) -> RoundResult:
    """Round ``number`` from ``state``. Without one usable update the state stays as it was."""
    started = time.perf_counter()
    devices = choose_devices(_eligible(federation, number), federation.devices_per_round, federation.seed, number)
    plan = federation.clock.plan(number, devices) if federation.clock is not None else None
    exchange, watch = Exchange(federation, number, plan), Stopwatch()
    begun = _begin(federation, state, number, plan)
    after = federation.rule.server.apply(begun, watch.waiting(exchange.updates(begun, devices)))
    server_seconds = watch.own_seconds + exchange.dispatch_seconds
    if any(record.refused is None for record in exchange.records):
        state = after
    metrics, scores = federation.evaluator.evaluate(state, number)
    record = _record(number, metrics, exchange.records, time.perf_counter() - started)
    record = record.with_costs(server_seconds, *_simulated(federation, plan, exchange.records))
    return RoundResult(record, tuple(exchange.records), state, tuple(scores))


def _eligible(federation: Federation, number: int) -> list[int]:
    """The devices that hold data and have joined."""
    holders = [device for device, samples in enumerate(federation.samples) if samples]
    return [device for device in holders if not federation.joins or federation.joins[device] <= number]


def _begin(federation: Federation, state: ServerState, number: int, plan: Plan | None) -> ServerState:
    """The state that the round goes on from, at the rank of its plan."""
    begun = federation.rule.server.begin(state, number)
    if plan is None or plan.rank is None:
        return begun
    seed = derive_seed(federation.seed, "resize", number)
    return federation.rule.server.resize(begun, federation.size(plan.rank), seed)


def _simulated(
    federation: Federation, plan: Plan | None, records: Sequence[DeviceRecord]
) -> tuple[int | None, float | None, float | None]:
    """The round's common rank, duration and energy by the system model, where rounds are planned."""
    if federation.clock is None or plan is None:
        return None, None, None
    spent_j = sum(device.cost.spent_j for device in records if device.cost is not None)
    return plan.rank, federation.clock.duration_s(records), spent_j


class Stopwatch:
    """Stopwatch that excludes time spent waiting for updates."""

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


def _record(number: int, metrics: Mapping[str, Metric], lines: Sequence[DeviceRecord], seconds: float) -> RoundRecord:
    """A round's line from those of its devices; stray replies count for their bytes alone."""
    devices = [device for device in lines if not device.stray]
    used = [device for device in devices if device.refused is None and device.train_loss is not None]
    weights = sum(device.samples for device in used)
    train_loss = sum(device.samples * (device.train_loss or 0.0) for device in used) / weights if used else None
    return RoundRecord(
        round=number,
        metrics=dict(metrics),
        train_loss=train_loss,
        uplink_bytes=sum(device.uplink_bytes for device in lines),
        downlink_bytes=sum(device.downlink_bytes for device in lines),
        seconds=seconds,
        devices=len(devices),
        refused=sum(device.refused is not None for device in devices),
    )
