"""What is merged into the frozen weights: the same bits on the server and on every device, however many rounds it missed."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.merged_delta import DELTA, EXACT, STEP_A, STEP_B, catch_up, delta_of, folded, merge, received_delta
from fedfit.codecs.plain import PlainCodec
from fedfit.core.update import AdapterSize, Factors, Memory, Origin, ServerState, Update
from fedfit.errors import UpdateRefused
from fedfit.rounds.devices import completed
from tests.builders import packed, random_update, rule_of

CODEC = PlainCodec()
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
        torch.testing.assert_close(state.tensors[f"delta.{name}"].double(), expected, rtol=1e-6, atol=1e-6)
    assert delta_of(state.tensors).keys() == START.factors.keys()
    assert state.numbers == {"version": 2, "held 0": 0, "held 3": 1}


STEP, WHOLE = frozenset({STEP_A, STEP_B}), frozenset({DELTA})


def own_of(update: Update) -> frozenset[str]:
    """The groups that travel beside the adapter's."""
    return update.present - START.present


@pytest.mark.parametrize(("rank", "sent"), [(1, STEP), (2, STEP), (3, WHOLE)])
def test_what_is_smaller_is_sent(rank: int, sent: frozenset[str]) -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(rank, 2), START)
    state = replace(state, numbers={**state.numbers, "held 7": 1})
    update = catch_up(state, 7, START)
    assert own_of(update) == sent
    assert update.facts == {**START.facts, "version": 2}
    assert type(update.facts["version"]) is int
    tensors = [tensor for group in sent for tensor in update.groups[group].values()]
    assert sum(tensor.numel() for tensor in tensors) == 2 * min(11 * rank, 30)


def test_one_that_is_up_to_date_gets_nothing_and_one_that_missed_a_round_the_whole() -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(1, 2), START)
    for held, sent in ((2, frozenset[str]()), (1, STEP), (0, WHOLE)):
        assert own_of(catch_up(replace(state, numbers={"version": 2, "held 7": held}), 7, START)) == sent
    assert own_of(catch_up(replace(state, numbers={"version": 2}), 7, START)) == WHOLE


@pytest.mark.parametrize("held", [0, 1])
def test_no_codec_may_round_what_is_merged(held: int) -> None:
    """Device and server add the same products: what else an adapter asks to be exact stays so."""
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(1, 2), START)
    adapter = replace(START, exact=frozenset({"head"}))
    sent = catch_up(replace(state, numbers={"version": 2, "held 7": held}), 7, adapter)
    assert sent.exact == EXACT | {"head"}
    assert own_of(sent) <= sent.exact


def test_a_step_from_another_version_is_refused() -> None:
    state = merge(merge(ServerState(START), steps(1, 1), START), steps(1, 2), START)
    received = catch_up(replace(state, numbers={"version": 2, "held 7": 1}), 7, START)
    assert own_of(received) == STEP
    for lost in (None, Memory({}, {"version": 0}), Memory({}, {"version": 3})):
        with pytest.raises(UpdateRefused, match="leads to 2"):
            received_delta(received, lost)
    for less in (STEP, {STEP_A}, {STEP_B}):
        with pytest.raises(UpdateRefused, match="leads to 2"):
            received_delta(received.without(less), Memory({}, {"version": 1}))


@pytest.mark.parametrize("version", ["2", 2.0, True])
def test_a_version_of_another_type_is_refused(version: str | float | bool) -> None:
    with pytest.raises(UpdateRefused, match="version"):
        received_delta(replace(START, facts={"version": version}), None)


def device_round(
    rule: Rule, state: ServerState, device: int, rank: int, memory: Memory | None
) -> tuple[Update, Memory | None, Mapping[str, torch.Tensor]]:
    """One device's round over the codec, training being noise; its reply, its next memory, and its merged weights."""
    seed = 1000 + device
    sent = rule.server.dispatch(state, device, AdapterSize(rank, 4.0 / rank), seed)
    travels = rule.traits.downlink_groups(1, START.present) | own_of(sent)
    received = completed(CODEC.decode(packed(sent.only(travels)), START), START)
    job = rule.device.receive(received, memory)
    assert all(torch.equal(pair.a, sent.factors[name].a) for name, pair in job.update.factors.items()), "not what was meant"
    noise = random_update(device, rank=rank)
    factors = {
        name: Factors(pair.a + noise.factors[name].a, pair.b + noise.factors[name].b, pair.scale)
        for name, pair in job.update.factors.items()
    }
    trained = replace(job.update.with_factors(factors), weight=1.0 + device, facts={})
    assert trained.present == START.present
    update, kept = rule.device.send(job, trained, memory)
    (form,) = rule.server.reply_forms(sent)
    back = completed(CODEC.decode(packed(update.only(rule.traits.uplink_groups(1, START.present))), form), form)
    return replace(back, origin=Origin(device, seed)), kept, job.merged_delta


@pytest.mark.parametrize("rule", [rule_of("flora"), rule_of("fedex_lora")])
def test_devices_hold_the_servers_bits_whoever_takes_part(rule: Rule) -> None:
    """Ten rounds, two or three of five devices; some replies are lost on the way: the device has merged, the server does not
    know. In the sixth round all are lost, so the state stays."""
    rng = np.random.default_rng(5)
    state, memories = rule.server.init(START), dict[int, Memory | None]()
    kinds = set[str]()
    for number in range(1, 11):
        devices = sorted(rng.choice(5, size=int(rng.integers(2, 4)), replace=False).tolist())
        replies = []
        for device in devices:
            kinds |= own_of(rule.server.dispatch(state, device, SIZE, 0))
            rank = device % 2 + 1 if rule.traits.mixed_ranks else 2
            update, memories[device], delta = device_round(rule, state, device, rank, memories.get(device))
            server = rule.server.model(state).merged_delta
            assert delta.keys() == server.keys()
            assert all(torch.equal(delta[name], tensor) for name, tensor in server.items())
            replies += [update] if number != 6 and rng.random() < 0.7 else []
        after = rule.server.apply(state, iter(replies))
        assert (after is state) == (not replies)
        state = after
    assert kinds == STEP | WHOLE


def test_folding_is_one_adapter_over_the_first_weights() -> None:
    delta = {name: torch.randn(5, 6, generator=torch.Generator().manual_seed(3)) for name in list(START.factors)[:1]}
    made = folded(START, delta)
    untouched = list(START.factors)[1]
    assert made.factors[untouched].a is START.factors[untouched].a
    for name, moved in delta.items():
        pair, old = made.factors[name], START.factors[name]
        expected = moved.double() + old.scale * (old.b.double() @ old.a.double())
        torch.testing.assert_close(pair.scale * (pair.b.double() @ pair.a.double()), expected, rtol=1e-6, atol=1e-6)
        assert len(pair.a) == 5, "a random 5 × 6 matrix has rank 5"
    low = {name: step.b @ step.a for name, step in steps(1, 8).items()}
    zero = START.with_factors({name: replace(pair, b=pair.b * 0) for name, pair in START.factors.items()})
    assert all(len(pair.a) == 1 for pair in folded(zero, low).factors.values())
    nothing = folded(zero, {name: torch.zeros(5, 6) for name in low})
    assert all(pair.a is zero.groups["lora_A"][name] for name, pair in nothing.factors.items())
