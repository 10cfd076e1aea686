"""The battery over the whole table of rules: what must hold of each, whatever its formula.

A new rule is picked up by itself. It needs an entry in ``FACTS``: what its formula says where rules differ. Whole federations
are in ``test_table_runs``.
"""

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.rules.fedavg import FEDAVG
from fedfit.aggregation.table import RULES, make_rule
from fedfit.codecs.plain import PlainCodec
from fedfit.core.checks import check_form
from fedfit.core.update import (
    HEAD,
    LORA_A,
    LORA_B,
    PAIRS,
    AdapterSize,
    Factors,
    Job,
    Origin,
    ServerState,
    Update,
    named_tensors,
)
from fedfit.rounds.devices import completed
from fedfit.settings import FederationSettings, Recipe
from tests.aggregation.facts import FACTS, SHARING, close, each_rule, made, model, product, same_state, whole
from tests.builders import packed, random_update, same_bits

RANK, ALPHA = 4, 4.0
WEIGHTS = (3.0, 5.0, 11.0, 2.0)
CODEC = PlainCodec()


def size(rank: int, alpha: float = ALPHA) -> AdapterSize:
    return AdapterSize(rank, alpha / rank)


START = random_update(99, rank=RANK, scale=size(RANK).scale)
GROUPS = START.present


def test_every_rule_has_its_facts() -> None:
    assert set(FACTS) == set(RULES)
    assert {fact.equal for fact in FACTS.values()} <= {"factors", "product", "trained", "own"}
    assert {fact.keeps for fact in FACTS.values()} <= {"nothing", "factors", "all"}


@pytest.mark.parametrize("name", RULES)
def test_a_recipe_names_it(name: str) -> None:
    """With its default keys: the traits that hold no function are those of the entry."""
    mine, theirs = make_rule(Recipe(federation=FederationSettings(rule=name)), 3).traits, RULES[name].traits()
    plain = [item.name for item in fields(mine) if item.name not in ("frozen", "recoded")]
    assert len(plain) > 10
    assert {n: getattr(mine, n) for n in plain} == {n: getattr(theirs, n) for n in plain}


@pytest.mark.parametrize("name", RULES)
def test_its_traits_fit_together(name: str) -> None:
    """In each round something is trained, or nothing would be learned; what is private never travels."""
    traits = RULES[name].traits()
    assert traits.needs in ("pairs", "tensors")
    for number in range(1, 5):
        down, up = traits.downlink_groups(number, GROUPS), traits.uplink_groups(number, GROUPS)
        assert HEAD in traits.trained(number, GROUPS)
        assert up <= traits.trained(number, GROUPS) <= GROUPS
        assert not traits.private & (up | down)
        assert not traits.derivable & down
        assert traits.shares or not up | down
    assert traits.personal == (bool(traits.private) or not traits.shares)


def norm(update: Update) -> float:
    return math.sqrt(sum(float(product(pair).square().sum()) for pair in update.factors.values()))


def ranks_of(rule: Rule) -> list[int]:
    """Mixed where they may be, and one of them the global rank."""
    return [1, 2, RANK, 3] if rule.traits.mixed_ranks else [RANK] * 4


def dispatched(rule: Rule, state: ServerState, device: int, rank: int, alpha: float = ALPHA) -> Update:
    """The update that ``device`` is sent, as the server remembers it."""
    seed = 1000 + device
    return replace(rule.server.dispatch(state, device, size(rank, alpha), seed), origin=Origin(device, seed))


def trained(rule: Rule, sent: Update, weight: float, amount: float = 1.0, initial: Update = START) -> Update:
    """The server's view of a device that adds noise to what it trains in round 1; copies, as from a packet.

    The noise is as large in the product whatever the scale. The device has drawn ``initial`` itself.
    """
    job, done = in_hand(rule, sent, weight, amount, initial)
    reply, _ = rule.device.send(job, done, None)
    travels = rule.traits.uplink_groups(1, GROUPS) | (reply.present - GROUPS)
    forms = rule.server.reply_forms(sent)
    read = completed(CODEC.decode(packed(reply.only(travels)), forms[0]), forms[0])
    check_form(read, forms)
    copies = {group: {name: tensor.clone() for name, tensor in tensors.items()} for group, tensors in read.groups.items()}
    return replace(read, groups=copies, origin=sent.origin)


def in_hand(rule: Rule, sent: Update, weight: float, amount: float = 1.0, initial: Update = START) -> tuple[Job, Update]:
    """That device's job, and the trained adapter."""
    assert sent.origin is not None
    travels = rule.traits.downlink_groups(1, GROUPS) | (sent.present - GROUPS)
    job = rule.device.receive(completed(CODEC.decode(packed(sent.only(travels)), initial), initial), None)
    start = job.update
    assert start.present == GROUPS
    noise, groups = random_update(sent.origin.device, rank=start.rank), rule.traits.trained(1, GROUPS) - rule.traits.private
    factors = {
        name: Factors(
            pair.a + noise.factors[name].a * (amount * (LORA_A in groups)),
            pair.b + noise.factors[name].b * (amount * (LORA_B in groups) * ALPHA / RANK / pair.scale),
            pair.scale,
        )
        for name, pair in start.factors.items()
    }
    head = {n: t + noise.groups[HEAD][n] * amount for n, t in start.groups[HEAD].items()}
    facts = {"learning_rate_sum": 0.1} if job.correction else {}
    return job, replace(start.with_factors(factors).with_groups({HEAD: head}), weight=weight, facts=facts)


def one_round(rule: Rule, weights: Sequence[float] = WEIGHTS) -> tuple[ServerState, list[Update]]:
    state = rule.server.init(START)
    sent = [dispatched(rule, state, device, rank) for device, rank in enumerate(ranks_of(rule))]
    return state, [trained(rule, update, weight) for update, weight in zip(sent, weights, strict=True)]


@each_rule
def test_without_an_update_nothing_changes(name: str) -> None:
    rule = made(name)
    state = rule.server.init(START)
    assert rule.server.apply(state, iter([])) is state
    close(model(rule, state), START)


@each_rule
def test_neither_state_nor_updates_are_changed(name: str) -> None:
    rule = made(name)
    state, updates = one_round(rule)
    after = rule.server.apply(state, iter(updates))
    again, same = one_round(rule)
    assert not same_state(after, state)
    assert same_state(state, again)
    assert all(same_bits(mine, other) for mine, other in zip(updates, same, strict=True))
    assert same_bits(START, random_update(99, rank=RANK, scale=size(RANK).scale))


@each_rule
@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_order_of_the_devices_is_float_noise(name: str, order: tuple[int, ...]) -> None:
    rule = made(name)
    state, updates = one_round(rule)
    straight = model(rule, rule.server.apply(state, iter(updates)))
    close(straight, model(rule, rule.server.apply(state, iter([updates[device] for device in order]))))


@each_rule
@pytest.mark.parametrize("weight", [1e-6, 1.0, 40_000.0])
def test_one_device_alone_gives_its_own_update(name: str, weight: float) -> None:
    """Or as many as the rule needs, which all learned the same."""
    rule = made(name)
    state = rule.server.init(START)
    sent = dispatched(rule, state, 0, RANK)
    updates = [trained(rule, sent, weight) for _ in range(FACTS[name].least)]
    after = model(rule, rule.server.apply(state, iter(updates)))
    close(after, whole(rule.server.model(state).merged_delta, in_hand(rule, sent, weight)[1]))
    assert not same_bits(after, START)


@each_rule
def test_devices_that_learn_nothing(name: str) -> None:
    """What is cut out of the global adapter goes back to where it was; only a rule that cuts for good loses by it."""
    rule = made(name)
    state = rule.server.init(START)
    sent = [dispatched(rule, state, device, rank) for device, rank in enumerate(ranks_of(rule))]
    after = model(rule, rule.server.apply(state, iter([trained(rule, update, 1.0, amount=0.0) for update in sent])))
    moved = max(float((product(pair) - product(START.factors[n])).norm()) for n, pair in after.factors.items())
    assert moved < 1e-5 if FACTS[name].still else moved > 0.1
    for head, tensor in after.groups[HEAD].items():
        torch.testing.assert_close(tensor, START.groups[HEAD][head], rtol=1e-6, atol=1e-6)


@each_rule
@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_weights_that_sum_to_anything_are_normalised(name: str, factor: float) -> None:
    rule = made(name)
    state, updates = one_round(rule)
    plain = model(rule, rule.server.apply(state, iter(updates)))
    scaled = [replace(update, weight=update.weight * factor) for update in updates]
    close(plain, model(rule, rule.server.apply(state, iter(scaled))))
    # The weights do count, or not at all.
    uneven = [replace(update, weight=update.weight * (1 + update.origin.device)) for update in updates if update.origin]
    other = rule.server.apply(state, iter(uneven)).adapter
    one, two = (update.groups[HEAD]["classifier.weight"] for update in (plain, other))
    assert torch.allclose(one, two, rtol=1e-2, atol=1e-2) is not FACTS[name].weighs


@each_rule
def test_more_alpha_and_smaller_factors_are_the_same_model(name: str) -> None:
    """α = 8 with B halved, at the server and in what devices learn, is α = 4, for ranks 1 to 4 in one round."""
    rule = made(name)
    halved = {n: Factors(pair.a, pair.b / 2, pair.scale * 2) for n, pair in START.factors.items()}
    initial = START.with_factors(halved)
    plain, other = rule.server.init(START), rule.server.init(initial)
    mine, theirs = [], []
    for device, (rank, weight) in enumerate(zip(ranks_of(rule), WEIGHTS, strict=True)):
        left, right = dispatched(rule, plain, device, rank), dispatched(rule, other, device, rank, 2 * ALPHA)
        close(left, right)
        assert all(pair.scale * 2 == right.factors[n].scale for n, pair in left.factors.items())
        mine.append(trained(rule, left, weight))
        theirs.append(trained(rule, right, weight, initial=initial))
        close(in_hand(rule, left, weight)[1], in_hand(rule, right, weight, initial=initial)[1])
    close(model(rule, rule.server.apply(plain, iter(mine))), model(rule, rule.server.apply(other, iter(theirs))))


@pytest.mark.parametrize("name", [name for name in SHARING if FACTS[name].weighs])
def test_the_head_is_the_weighted_mean(name: str) -> None:
    rule = made(name)
    state, updates = one_round(rule)
    shares = np.array([update.weight * (norm(update) if FACTS[name].by_norm else 1.0) for update in updates])
    shares /= shares.sum()
    after = rule.server.apply(state, iter(updates)).adapter
    for head in START.groups[HEAD]:
        expected = sum(share * update.groups[HEAD][head].double() for share, update in zip(shares, updates, strict=True))
        torch.testing.assert_close(after.groups[HEAD][head].double(), expected, rtol=1e-6, atol=1e-6)


@each_rule
def test_one_update_is_in_memory_at_a_time(name: str) -> None:
    """A count of the tensors of earlier updates that are still there when the next is made."""
    rule = made(name)
    state = rule.server.init(START)
    alive: dict[bool, weakref.WeakSet[Tensor]] = {True: weakref.WeakSet(), False: weakref.WeakSet()}
    most = {True: 0, False: 0}

    def updates() -> Iterator[Update]:
        for device, rank in enumerate(ranks_of(rule)):
            gc.collect()
            most.update({pairs: max(most[pairs], len(alive[pairs])) for pairs in most})
            update = trained(rule, dispatched(rule, state, device, rank), 1.0)
            for full, tensor in named_tensors(update).items():
                alive[full.partition(".")[0] in PAIRS].add(tensor)
            yield update
            del update, tensor

    rule.server.apply(state, updates())
    pairs = 3 * 2 * 2  # of three updates before the last, A and B of two modules
    heads = 3 * 2
    kept = {"nothing": (0, 0), "factors": (pairs, 0), "all": (pairs, heads)}[FACTS[name].keeps]
    assert (most[True], most[False]) == kept


@pytest.mark.parametrize("name", [name for name in SHARING if RULES[name].traits().needs == "tensors"])
def test_a_rule_that_needs_no_pairs_takes_any_group(name: str) -> None:
    """Biases and a prompt, without factors and head: equal updates give themselves, and the groups stay."""
    rule = made(name)
    start = Update({"bias": {"x": torch.ones(3), "y": torch.zeros(2)}, "prompt": {"p": torch.randn(2, 4)}})
    state = rule.server.init(start)
    sent = rule.server.dispatch(state, 0, size(RANK), 7)
    job = rule.device.receive(sent, None)
    moved = {group: {name: t + 1 for name, t in tensors.items()} for group, tensors in job.update.groups.items()}
    done = replace(job.update, groups=moved, facts={"learning_rate_sum": 0.1} if job.correction else {})
    reply, _ = rule.device.send(job, done, None)
    check_form(reply, rule.server.reply_forms(sent))
    replies = [replace(reply, origin=Origin(device, 7)) for device in range(3)]
    after = rule.server.model(rule.server.apply(state, iter(replies))).update
    assert same_bits(after, Update(moved))


def test_the_bias_of_fedavg_is_its_closed_form() -> None:
    """ΣpB·ΣpA − ΣpBA = −½ Σ_ij p_i p_j (B_i − B_j)(A_i − A_j): multiply out, and use Σp = 1 once in each term."""
    state, updates = one_round(FEDAVG)
    shares = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    after = FEDAVG.server.apply(state, iter(updates)).adapter
    for name, pair in after.factors.items():
        own = [update.factors[name] for update in updates]
        exact = sum(share * product(mine) for share, mine in zip(shares, own, strict=True))
        bias = torch.zeros_like(product(pair))
        for p, mine in zip(shares, own, strict=True):
            for q, other in zip(shares, own, strict=True):
                bias -= 0.5 * p * q * pair.scale * (mine.b - other.b).double() @ (mine.a - other.a).double()
        assert float(bias.norm()) > 0.1 * float(product(pair).norm())
        torch.testing.assert_close(product(pair) - exact, bias, rtol=1e-5, atol=1e-5)
