"""A federation without models: devices add their number to every tensor, and a test may spoil what they reply."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order, Reply
from fedfit.core.task import Metric, Score
from fedfit.core.update import AdapterSize, Factors, ServerState, Update
from fedfit.records import DeviceScore
from fedfit.rounds.federation import Federation
from fedfit.rounds.link import Link
from tests.builders import packed, random_update, rule_of

CODEC = PlainCodec()
ADAPTER = random_update(9)
STATE = ServerState(ADAPTER)
SAMPLES = [10, 20, 0, 30]
"""By device: the third one holds nothing, and is never asked."""


def nothing_spoilt(order: Order, reply: Reply) -> list[Reply]:
    return [reply]


@dataclass
class Echo:
    """Replies as ``trained`` has it; ``deliver`` says which replies the network makes of one, ``arrange`` in which order."""

    deliver: Callable[[Order, Reply], Iterable[Reply]] = nothing_spoilt
    arrange: Callable[[list[Order]], Iterable[Order]] = iter
    deadlines: list[float | None] | None = None

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        if self.deadlines is not None:
            self.deadlines.append(deadline_s)
        for order in self.arrange(list(orders)):
            yield from self.deliver(order, reply_to(order))


def reply_to(order: Order) -> Reply:
    """A sound reply."""
    return Reply(order.round, order.device, packed(trained(CODEC.decode(order.packet), order.device)), None, 0.5)


def trained(update: Update, device: int) -> Update:
    """Every tensor plus the device's number; weight and facts that a test can tell apart."""
    factors = {name: Factors(pair.a + device, pair.b + device, pair.scale) for name, pair in update.factors.items()}
    head = {name: tensor + device for name, tensor in update.groups["head"].items()}
    changed = update.with_factors(factors).with_groups({"head": head})
    return replace(changed, weight=float(SAMPLES[device]), facts={"steps": device + 1, "train_loss": device / 4})


class SumOfBias:
    """Measures the head's bias, so that a test sees which model was measured."""

    def evaluate(self, state: ServerState, after_round: int) -> tuple[Score, tuple[DeviceScore, ...]]:
        bias = float(state.adapter.groups["head"]["classifier.bias"].sum())
        return {"test_accuracy": Metric(0.5), "test_loss": Metric(bias, higher_is_better=False)}, ()


def federation(link: Link, devices_per_round: int = 3) -> Federation:
    """FedAvg over the devices of ``SAMPLES``."""
    return Federation(
        rule=rule_of("fedavg"),
        groups=ADAPTER.present,
        uplink=CODEC,
        downlink=CODEC,
        link=link,
        evaluator=SumOfBias(),
        samples=SAMPLES,
        devices_per_round=devices_per_round,
        seed=0,
        size=lambda rank: AdapterSize(rank, 2.0),
        ranks=[2] * len(SAMPLES),
    )


def expected_adapter(*devices: int) -> Update:
    """FedAvg's mean of what ``devices`` train."""
    return rule_of("fedavg").server.apply(STATE, [trained(ADAPTER, device) for device in devices]).adapter
