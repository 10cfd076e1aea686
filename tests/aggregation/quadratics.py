"""Devices that minimise quadratics under SCAFFOLD, and Algorithm 1 of its paper as it is printed, in float64."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfit.aggregation.contract import Context
from fedfit.core.checks import check_form
from fedfit.core.update import AdapterSize, Memory, Origin, ServerState, Update, named_tensors, with_tensors
from tests.builders import random_update, rule_of

START = random_update(99)
SIZE = AdapterSize(2, 2.0)
Tensors = Mapping[str, Tensor]


def doubled(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def mean(several: Sequence[Tensors]) -> dict[str, Tensor]:
    return {name: sum((each[name] for each in several[1:]), several[0][name]) / len(several) for name in several[0]}


def close(left: Tensors, right: Tensors, tolerance: float) -> None:
    """To ``tolerance`` of the largest number of each tensor."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        largest = max(1.0, float(right[name].abs().max()))
        torch.testing.assert_close(tensor.double(), right[name].double(), rtol=0, atol=tolerance * largest, msg=name)


def variates(state: ServerState) -> dict[str, Tensor]:
    """c by the names of ``named_tensors``."""
    return dict(state.tensors)


def own_variate(memory: Memory | None, counted: float, like: Update) -> dict[str, Tensor]:
    """c_i as the file says: what was kept, and the last change if it counted."""
    if memory is None:
        return {name: tensor.double() * 0 for name, tensor in named_tensors(like).items()}
    own = {name: memory.tensors[f"c {name}"] for name in named_tensors(like)}
    if counted == memory.numbers["counted"]:
        return own
    return {name: tensor + memory.tensors[f"change {name}"] for name, tensor in own.items()}


# Quadratics: device i minimises ½ Σ h_i (x - m_i)², by coordinate


class Quadratics:
    """Devices with a memory of their own, and Algorithm 1's lines in float64 beside them.

    Args:
        apart: how far the minima are from one another; with 0 all devices are the same.
    """

    rates = (0.1, 0.05, 0.2, 0.1)

    def __init__(self, devices: int, apart: float = 1.0, clipped: float = math.inf) -> None:
        self.rule, self.count = rule_of("scaffold", Context(holders=devices)), devices
        draws = [named_tensors(random_update(number)) for number in range(devices)]
        self.minima = [{name: apart * tensor for name, tensor in each.items()} for each in draws]
        self.curves = [{name: 1 + apart * tensor.abs() for name, tensor in each.items()} for each in reversed(draws)]
        self.memories: list[Memory | None] = [None] * devices
        self.clipped = clipped

    def gradient(self, device: int, x: Tensors) -> dict[str, Tensor]:
        slopes = {name: self.curves[device][name] * (tensor - self.minima[device][name]) for name, tensor in x.items()}
        return {name: slope.clamp(-self.clipped, self.clipped) for name, slope in slopes.items()}

    def optimum(self) -> dict[str, Tensor]:
        """Of the mean over all devices: Σ h_i m_i / Σ h_i."""
        curves = mean([doubled(curve) for curve in self.curves])
        pairs = zip(self.curves, self.minima, strict=True)
        products = [{n: c.double() * m[n].double() for n, c in curve.items()} for curve, m in pairs]
        return {name: product / curves[name] for name, product in mean(products).items()}

    def reply(self, state: ServerState, device: int, lost: bool = False) -> Update:
        """The device's side of a round; ``lost`` for a reply that the server will not count."""
        sent = replace(self.rule.server.dispatch(state, device, SIZE, 0), origin=Origin(device, 0))
        job = self.rule.device.receive(sent, self.memories[device])
        y = dict(named_tensors(job.update))
        for rate in self.rates:
            slopes = self.gradient(device, y)
            y = {name: tensor - rate * (slopes[name] + job.correction[name]) for name, tensor in y.items()}
        facts = {"steps": 4, "learning_rate_sum": sum(self.rates)}
        trained = replace(with_tensors(START, y), weight=1.0, facts=facts)
        update, self.memories[device] = self.rule.device.send(job, trained, self.memories[device])
        assert update.facts == {"steps": 4}, "what the server does not need does not travel"
        check_form(update, self.rule.server.reply_forms(sent))
        return replace(update, origin=sent.origin, weight=math.nan if lost else update.weight)

    def round(self, state: ServerState, devices: Iterable[int], lost: Iterable[int] = ()) -> ServerState:
        replies = [self.reply(state, device, device in lost) for device in devices]
        return self.rule.server.apply(state, (reply for reply in replies if not math.isnan(reply.weight)))

    def own(self, state: ServerState) -> list[dict[str, Tensor]]:
        counted = [state.numbers.get(f"counted {device}", 0) for device in range(self.count)]
        return [own_variate(memory, number, START) for memory, number in zip(self.memories, counted, strict=True)]


class AsPrinted:
    """Algorithm 1 with option II in float64, line by line. A device whose reply does not count did not take part."""

    def __init__(self, made: Quadratics) -> None:
        self.made = made
        self.x = doubled(named_tensors(START))
        self.c = {name: tensor * 0 for name, tensor in self.x.items()}
        self.own = [dict(self.c) for _ in range(made.count)]

    def round(self, devices: Iterable[int]) -> None:
        ends, changes = [], []
        for i in devices:
            y = dict(self.x)
            for rate in self.made.rates:
                g = self.made.gradient(i, y)
                y = {n: y[n] - rate * (g[n] - self.own[i][n] + self.c[n]) for n in y}
            fresh = {n: self.own[i][n] - self.c[n] + (self.x[n] - y[n]) / sum(self.made.rates) for n in y}
            ends.append(y)
            changes.append({n: fresh[n] - self.own[i][n] for n in y})
            self.own[i] = fresh
        self.x, moved = mean(ends), mean(changes)
        self.c = {n: c + len(ends) / self.made.count * moved[n] for n, c in self.c.items()}


def one_round(made: Quadratics, weights: Sequence[float] = (1.0, 1.0, 1.0)) -> tuple[ServerState, list[Update]]:
    """A state of a second round, and the updates of all devices to it."""
    state = made.round(made.rule.server.init(START), range(3))
    return state, [replace(made.reply(state, device), weight=weight) for device, weight in enumerate(weights)]
