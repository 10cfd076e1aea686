"""What is merged into the frozen weights: the same bits on the server and on every device, however many rounds it missed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedfit.aggregation.base import Rule
from fedfit.aggregation.fedex_lora import FedExLora
from fedfit.aggregation.flora import Flora
from fedfit.aggregation.merged_base import catch_up, folded, merge, received_base
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import UpdateRefused
from fedfit.records import PARTS, AdapterSize, Factors, Memory, Origin, ServerState, Update
from tests.builders import random_update

CODEC = SafetensorsCodec()
START = random_update(99, rank=2)
SIZE = AdapterSize(2, 2.0)
"""Modules of 5 × 6: factors of rank n have 11·n numbers, the whole 30. A step of rank 2 is sent as it is, one of 3 is not."""


def steps(rank: int, seed: int) -> dict[str, Factors]:
    return dict(random_update(seed, rank=rank, scale=1.0).factors)


def test_a_merge_adds_the_product_and_counts() -> None:
    state = merge(ServerState(START), steps(2, 1), START, [0, 3])
    state = merge(state, steps(1, 2), START, [3])
    for name in START.factors:
        expected = sum(each[name].b.double() @ each[name].a.double() for each in (steps(2, 1), steps(1, 2)))
        torch.testing.assert_close(state.tensors[f"base {name}"].double(), expected, rtol=1e-6, atol=1e-6)
    assert state.numbers == {"version": 2, "held 0": 0, "held 3": 1}


@pytest.mark.parametrize(("rank", "sent"), [(1, "step"), (2, "step"), (3, "base")])
def test_what_is_smaller_is_sent(rank: int, sent: str) -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(rank, 2), START)
    state = replace(state, numbers={**state.numbers, "held 7": 1})
    extra, metrics = catch_up(state, 7)
    assert {name.split()[0] for name in extra} == {sent}
    assert metrics == {"base_version": 2}
    assert sum(tensor.numel() for tensor in extra.values()) == 2 * min(11 * rank, 30)


def test_one_that_is_up_to_date_gets_nothing_and_one_that_missed_a_round_the_whole() -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(1, 2), START)
    for held, sent in ((2, set()), (1, {"step"}), (0, {"base"})):
        extra, _ = catch_up(replace(state, numbers={"version": 2, "held 7": held}), 7)
        assert {name.split()[0] for name in extra} == sent
    never, _ = catch_up(replace(state, numbers={"version": 2}), 7)
    assert {name.split()[0] for name in never} == {"base"}


def test_a_step_from_another_version_is_refused() -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(1, 2), START)
    extra, metrics = catch_up(replace(state, numbers={"version": 2, "held 7": 1}), 7)
    received = replace(START, extra=extra, metrics=metrics)
    for lost in (None, Memory({}, {"version": 0}), Memory({}, {"version": 3})):
        with pytest.raises(UpdateRefused, match="leads to 2"):
            received_base(received, lost)
    with pytest.raises(UpdateRefused, match="leads to 2"):
        received_base(replace(START, metrics=metrics), Memory({}, {"version": 1}))


def device_round(rule: Rule, state: Any, device: int, rank: int, memory: Memory | None) -> tuple[Update, Memory | None, Any]:
    """One device's round over the codec, training being noise; what comes back, what it keeps, and its merged weights."""
    seed = 1000 + device
    sent = rule.dispatch(state, device, AdapterSize(rank, 4.0 / rank), seed)
    received = CODEC.decode(CODEC.encode(sent, rule.gets(1)), START)
    task = rule.receive(received, memory)
    assert all(torch.equal(pair.a, sent.factors[name].a) for name, pair in task.update.factors.items()), "not what was meant"
    noise = random_update(device, rank=rank)
    factors = {
        name: Factors(pair.a + noise.factors[name].a, pair.b + noise.factors[name].b, pair.scale)
        for name, pair in task.update.factors.items()
    }
    trained = replace(task.update, factors=factors, weight=1.0 + device, metrics={}, extra={})
    update, kept = rule.send(task, trained, memory)
    back = CODEC.decode(CODEC.encode(update, rule.sends(1)), sent, PARTS)
    return replace(back, origin=Origin(device, seed)), kept, task.base


@pytest.mark.parametrize("rule", [Flora(), FedExLora()])
def test_devices_hold_the_servers_bits_whoever_takes_part(rule: Rule) -> None:
    """Ten rounds, two or three of five devices; some replies are lost on the way: the device has merged, the server does not
    know. In the sixth round all are lost, so the state stays."""
    rng = np.random.default_rng(5)
    state, memories = rule.init(START), dict[int, Memory | None]()
    kinds = set()
    for number in range(1, 11):
        devices = sorted(rng.choice(5, size=int(rng.integers(2, 4)), replace=False).tolist())
        came = []
        for device in devices:
            kinds |= {name.split()[0] for name in rule.dispatch(state, device, SIZE, 0).extra}
            rank = device % 2 + 1 if rule.mixed_ranks else 2
            update, memories[device], base = device_round(rule, state, device, rank, memories.get(device))
            server = rule.base(state)
            assert base.keys() == server.keys()
            assert all(torch.equal(base[name], tensor) for name, tensor in server.items())
            came += [update] if number != 6 and rng.random() < 0.7 else []
        after = rule.apply(state, iter(came))
        assert (after is state) == (not came)
        state = after
    assert kinds == {"step", "base"}


def test_folding_is_one_adapter_over_the_first_weights() -> None:
    base = {name: torch.randn(5, 6, generator=torch.Generator().manual_seed(3)) for name in list(START.factors)[:1]}
    made = folded(START, base)
    untouched = list(START.factors)[1]
    assert made.factors[untouched] is START.factors[untouched]
    for name, moved in base.items():
        pair, old = made.factors[name], START.factors[name]
        expected = moved.double() + old.scale * (old.b.double() @ old.a.double())
        torch.testing.assert_close(pair.scale * (pair.b.double() @ pair.a.double()), expected, rtol=1e-6, atol=1e-6)
        assert len(pair.a) == 5, "a random 5 × 6 matrix has rank 5"
    low = {name: step.b @ step.a for name, step in steps(1, 8).items()}
    zero = replace(START, factors={name: replace(pair, b=pair.b * 0) for name, pair in START.factors.items()})
    assert all(len(pair.a) == 1 for pair in folded(zero, low).factors.values())
    assert folded(zero, {name: torch.zeros(5, 6) for name in low}).factors == zero.factors
