"""HetLoRA's rank self-pruning: the device's decision, the server's part, and whole federations against a slow twin."""

import math
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfit.aggregation.contract import Rule
from fedfit.aggregation.resize import resize_update
from fedfit.aggregation.rules.hetlora import HETLORA
from fedfit.aggregation.rules.hetlora_pruning import PruningKeys, tail
from fedfit.aggregation.table import make_rule
from fedfit.codecs.plain import PlainCodec
from fedfit.core.checks import check_form
from fedfit.core.update import AdapterSize, Factors, Job, Origin, Penalty, ServerState, Update, named_tensors, update_of
from fedfit.errors import UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.records import RoundResult
from fedfit.settings import FederationSettings, Recipe
from fedfit.tracking.checkpoint import Checkpoints
from tests.aggregation.watching import change_training
from tests.builders import packed, random_update, rule_of, same_bits, tiny_experiment, tiny_recipe

RANK, SCALE = 4, 1.5
SENT = random_update(3, rank=RANK, scale=SCALE)


def pruning(gamma: float = 0.5, penalty: float = 0.01) -> Rule:
    return rule_of("hetlora_pruning", gamma=gamma, penalty=penalty)


def rank_of(update: Update) -> int:
    (rank,) = {len(pair.a) for pair in update.factors.values()} | {pair.b.shape[1] for pair in update.factors.values()}
    return rank


def slow_tail(update: Update, first: int) -> float:
    """Number by number."""
    total = 0.0
    for pair in update.factors.values():
        a = sum(float(x) ** 2 for row in pair.a.tolist()[first:] for x in row)
        b = sum(float(x) ** 2 for row in pair.b.tolist() for x in row[first:])
        total += math.sqrt(a) * math.sqrt(b)
    return total


def with_tail(update: Update, factor: float, first: int) -> Update:
    """The tail of B times ``factor``; everything before it moves far."""
    factors = {}
    for name, pair in update.factors.items():
        a, b = pair.a.clone(), pair.b.clone()
        a[:first] *= 3
        b[:, first:] *= factor
        factors[name] = Factors(a, b, pair.scale)
    return update.with_factors(factors)


def test_a_recipe_gives_it_its_keys() -> None:
    def made(**keys: Any) -> Rule:
        return make_rule(Recipe(federation=FederationSettings(**keys)), 3)

    assert made(rule="hetlora") is HETLORA
    rule = made(rule="hetlora_pruning", options={"hetlora_pruning": PruningKeys(gamma=0.5, penalty=0.25)})
    assert rule.device.receive(SENT, None).penalty == Penalty(0.25, 2)
    traits = rule.traits
    assert (traits.mixed_ranks, traits.supports_server_optimizer, traits.uniform) == (True, False, True)
    by_default = made(rule="hetlora_pruning").device.receive(random_update(1, rank=100), None)
    assert by_default.penalty == Penalty(0.01, 99)


# The device's decision


@pytest.mark.parametrize(
    ("gamma", "rank", "kept"),
    [(0.99, 8, 7), (0.99, 100, 99), (0.5, 4, 2), (0.5, 3, 1), (0.5, 2, 1), (0.5, 1, 1), (0.1, 4, 1), (0.99, 1, 1)],
)
def test_what_is_kept_is_gamma_r_rounded_down_and_never_nothing(gamma: float, rank: int, kept: int) -> None:
    sent = random_update(1, rank=rank)
    device = pruning(gamma).device
    job = device.receive(sent, None)
    assert job.update is sent
    assert job.penalty == Penalty(0.01, kept)
    reply, memory = device.send(job, with_tail(sent, 0.5, kept), None)
    assert (rank_of(reply), memory) == (kept, None)


@pytest.mark.parametrize("first", range(5))
def test_the_tail_is_its_formula(first: int) -> None:
    assert tail(SENT, first) == pytest.approx(slow_tail(SENT, first), rel=1e-12)


@pytest.mark.parametrize(("factor", "rank"), [(0.0, 2), (0.999, 2), (1.0, 4), (1.001, 4), (7.0, 4)])
def test_only_a_tail_that_has_shrunk_is_given_up(factor: float, rank: int) -> None:
    trained = with_tail(SENT, factor, 2)
    reply, _ = pruning().device.send(Job(SENT), trained, None)
    assert rank_of(reply) == rank
    for name, pair in reply.factors.items():
        assert torch.equal(pair.a, trained.factors[name].a[:rank])
        assert torch.equal(pair.b, trained.factors[name].b[:, :rank])
        assert pair.scale == SCALE
    assert reply.groups["head"] is trained.groups["head"]
    assert reply.facts == (trained.facts if rank == RANK else {**trained.facts, "pruned": True})


def test_modules_decide_together() -> None:
    """One module's tail shrinks by more than the other's grows, or by less: the common rank falls, or stays."""
    first, second = SENT.factors
    sizes = {name: slow_tail(update_of({name: pair}), 2) for name, pair in SENT.factors.items()}
    for falls, rank in ((0.9, 2), (0.1, 4)):
        growth = 1 + 0.5 * sizes[first] / sizes[second]  # grows by half of what the first has
        factors = {
            first: with_tail(SENT, 1 - falls, 2).factors[first],
            second: with_tail(SENT, growth, 2).factors[second],
        }
        trained = SENT.with_factors(factors)
        assert rank_of(pruning().device.send(Job(SENT), trained, None)[0]) == rank


# The server


def test_a_reply_is_held_to_what_was_sent_or_to_that_without_its_tail() -> None:
    forms = pruning().server.reply_forms(SENT)
    for rank in range(1, 6):
        reply = random_update(5, rank=rank, scale=SCALE)
        if rank in (2, 4):
            check_form(reply, forms)
        else:
            with pytest.raises(UpdateRefused, match="wanted"):
                check_form(reply, forms)
    name, pair = next(iter(SENT.factors.items()))
    for odd in (replace(pair, a=torch.tensor(1.0)), replace(pair, a=pair.a[:2]), replace(pair, b=pair.b[:, :2])):
        with pytest.raises(UpdateRefused, match=name):
            check_form(SENT.with_factors({**SENT.factors, name: odd}), forms)
    with pytest.raises(UpdateRefused, match=r"unknown \['extra.more'\]"):
        check_form(SENT.with_groups({"extra": {"more": torch.zeros(1)}}), forms)


def test_the_largest_form_is_the_first() -> None:
    """The first form bounds the packet and completes a reply."""
    sizes = [sum(t.numel() for t in named_tensors(form).values()) for form in pruning().server.reply_forms(SENT)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == sum(tensor.numel() for tensor in named_tensors(SENT).values())


def reply_of(rule: Rule, device: int, factor: float, rank: int = RANK) -> Update:
    """What the server reads of ``device``, whose tail grew or shrank; over the air."""
    sent = random_update(device, rank=rank, scale=SCALE)
    reply, _ = rule.device.send(Job(sent), with_tail(sent, factor, math.floor(0.5 * rank)), None)
    return replace(PlainCodec().decode(packed(reply), sent), origin=Origin(device, 1))


def test_the_server_pads_what_is_pruned_and_sends_the_new_rank_from_then_on() -> None:
    rule, server = pruning(), pruning().server
    state = server.init(SENT)
    replies = [reply_of(rule, 0, 2.0), reply_of(rule, 1, 0.5)]
    assert [rank_of(reply) for reply in replies] == [4, 2]
    after = server.apply(state, iter(replies))
    assert after.numbers == {"rank 1": 2}
    assert same_bits(after.adapter, HETLORA.server.apply(ServerState(SENT), replies).adapter)
    assert [rank_of(server.dispatch(after, device, AdapterSize(4, SCALE), 0)) for device in range(3)] == [4, 2, 4]
    assert rank_of(server.dispatch(after, 1, AdapterSize(1, SCALE), 0)) == 1, "a plan may ask for less"
    again = server.apply(after, iter([reply_of(rule, 1, 0.5, rank=2), reply_of(rule, 0, 2.0)]))
    assert again.numbers == {"rank 1": 1}
    assert state.numbers == {}
    assert server.apply(again, iter([])) is again
    for name, pair in server.dispatch(after, 1, AdapterSize(4, SCALE), 0).factors.items():
        assert torch.equal(pair.a, after.adapter.factors[name].a[:2])
        assert torch.equal(pair.b, after.adapter.factors[name].b[:, :2])


def test_less_rank_for_one_round_is_no_pruning() -> None:
    """A plan gives a device 2 of 4 in a poor round. The reply has that rank, and it may have 4 in the next."""
    rule, server = pruning(), pruning().server
    after = server.apply(server.init(SENT), iter([reply_of(rule, 0, 2.0, rank=2)]))
    assert after.numbers == {}
    assert rank_of(server.dispatch(after, 0, AdapterSize(4, SCALE), 0)) == 4


def test_resizing_leaves_the_ranks_of_devices() -> None:
    server = pruning().server
    state = ServerState(SENT, numbers={"rank 1": 2})
    for rank in (2, 6):
        size = AdapterSize(rank, 0.7)
        resized = server.resize(state, size, 5)
        assert same_bits(resized.adapter, resize_update(SENT, size, seed=5))
        assert resized.numbers == state.numbers


# Whole federations

STRONG = PruningKeys(gamma=0.5, penalty=20.0)
FREE = PruningKeys(gamma=0.5, penalty=0.0)
RANKS = (1, 2, 4, 4)


def federation(folder: Path, pruned: PruningKeys | None, **keys: Any) -> Experiment:
    """Four devices under HetLoRA, with pruning or without."""
    rule = "hetlora" if pruned is None else "hetlora_pruning"
    own = {} if pruned is None else {rule: pruned}
    settings = {"rule": rule, "options": own, "rounds": 5, "devices": 4, "devices_per_round": 3, "ranks": RANKS, **keys}
    training = {"local_epochs": 2, "learning_rate": 0.02}
    return tiny_experiment(tiny_recipe(folder, adapter={"rank": 4}, federation=settings, training=training), None)


def cut(state: Update, rank: int) -> Update:
    factors = {n: Factors(p.a[:rank].clone(), p.b[:, :rank].clone(), p.scale) for n, p in state.factors.items()}
    return state.with_factors(factors)


def slow_round(made: Experiment, state: Update, ranks: dict[int, int], devices: list[int], number: int) -> dict[str, Tensor]:
    """One round by the formulas, with the real trainer; ``ranks`` change in place."""
    total, sums = 0.0, {name: torch.zeros_like(tensor).double() for name, tensor in named_tensors(state).items()}
    for device in devices:
        sent, first = cut(state, ranks[device]), max(1, ranks[device] // 2)
        job = Job(sent, penalty=Penalty(STRONG.penalty, first))
        trained = made.trainer.train(job, made.parts.train, made.parts.held[device], number, device)
        if slow_tail(trained, first) < slow_tail(sent, first):
            trained, ranks[device] = cut(trained, first), first
        blocks = [pair.scale * pair.b.double() @ pair.a.double() for pair in trained.factors.values()]
        norm = math.sqrt(sum(float((block**2).sum()) for block in blocks))
        total += norm
        for name, pair in trained.factors.items():
            sums[f"lora_A.{name}"][: ranks[device]] += norm * pair.a
            sums[f"lora_B.{name}"][:, : ranks[device]] += norm * pair.b
        for name, tensor in trained.groups["head"].items():
            sums[f"head.{name}"] += norm * tensor
    return {name: tensor / total for name, tensor in sums.items()}


def test_a_federation_is_its_slow_twin(tiny_bert: Path) -> None:
    results = list(federation(tiny_bert, STRONG).run())
    twin, ranks, history = federation(tiny_bert, None), dict(enumerate(RANKS)), [list(RANKS)]
    for before, after in pairwise(results):
        assert after.record.refused == 0
        number, devices = after.record.round, [device.device for device in after.devices]
        sent = [ranks[device] for device in devices]
        expected = slow_round(twin, before.state.adapter, ranks, devices, number)
        for name, tensor in named_tensors(after.state.adapter).items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
        known = {f"rank {device}": rank for device, rank in ranks.items() if rank < RANKS[device]}
        assert after.state.numbers == known
        # A rank is 4 modules' d + k = 64 numbers of four bytes, both ways; facts are the rest that packets differ by.
        for device, rank in zip(after.devices, sent, strict=True):
            widest = after.devices[-1]
            assert abs(device.downlink_bytes - widest.downlink_bytes - (rank - sent[-1]) * 4 * 64 * 4) < 64
            gone = rank - ranks[device.device]
            assert abs(device.uplink_bytes - device.downlink_bytes + gone * 4 * 64 * 4) < 128
        history.append(list(ranks.values()))
    assert history[1] == list(RANKS), "B is zero at first: no tail can shrink"
    assert history[-1][0] == 1, "one row always stays"
    assert {2, 1} <= {rank for then in history for rank in then[2:]}, "4, then 2, then 1"


def test_a_refused_reply_prunes_nothing(tiny_bert: Path) -> None:
    """Device 3's tail is set to nothing in each round, its head to infinity: what it sends is pruned, and does not count."""
    made = federation(tiny_bert, FREE, devices_per_round=4)

    def spoil(number: int, device: int, update: Update) -> Update:
        if device != 3:
            return update
        head = {name: tensor + math.inf for name, tensor in update.groups["head"].items()}
        return with_tail(update, 0.0, 2).with_groups({"head": head})

    change_training(made, spoil)
    results = list(islice(made.run(), 4))
    for result in results[1:]:
        mine, other = result.devices[3], result.devices[2]
        assert mine.refused is not None
        assert "is not finite" in mine.refused
        assert abs(mine.downlink_bytes - other.downlink_bytes) < 64, "it is still sent the whole rank"
        if result.record.round > 1:
            assert other.uplink_bytes - mine.uplink_bytes > 2 * 4 * 64 * 4 - 128, "it did prune, by 2 ranks"
        assert "rank 3" not in result.state.numbers


@pytest.mark.parametrize("rank", [1, 3])
def test_a_reply_of_another_rank_is_refused_and_the_round_goes_on(rank: int, tiny_bert: Path) -> None:
    made = federation(tiny_bert, FREE, devices_per_round=4)

    def spoil(number: int, device: int, update: Update) -> Update:
        if device != 3:
            return update
        return cut(with_tail(update, 3.0, 2), rank)  # the tail grows, so that the rule itself does not prune

    change_training(made, spoil)
    first = list(islice(made.run(), 2))[-1]
    assert [device.refused is not None for device in first.devices] == [False, False, False, True]
    assert f"got ({rank}, 32)" in (first.devices[3].refused or "")
    assert "wanted (4, 32)" in (first.devices[3].refused or "")
    without = federation(tiny_bert, FREE, devices_per_round=4)

    def refuse(number: int, device: int, update: Update) -> Update:
        if device == 3:
            raise UpdateRefused("not today")
        return update

    change_training(without, refuse)
    assert same_state(first.state, list(islice(without.run(), 2))[-1].state)


def same_state(left: ServerState, right: ServerState) -> bool:
    return left.numbers == right.numbers and same_bits(left.adapter, right.adapter)


def test_without_penalty_and_where_nothing_shrinks_it_is_hetlora_to_the_bit(tiny_bert: Path) -> None:
    """γ = 0.99 at rank 1 has no tail; and in round 1, where B starts at zero, no tail can shrink at any rank."""
    for ranks, rounds in (((1, 1, 1, 1), 5), (RANKS, 1)):
        mine = list(federation(tiny_bert, PruningKeys(0.99, 0.0), ranks=ranks, rounds=rounds).run())
        other = list(federation(tiny_bert, None, ranks=ranks, rounds=rounds).run())
        for left, right in zip(mine, other, strict=True):
            assert left.state.numbers == {}
            assert same_bits(left.state.adapter, right.state.adapter)
            assert left.record.metrics == right.record.metrics
            assert left.record.uplink_bytes == right.record.uplink_bytes
        assert not same_bits(mine[0].state.adapter, mine[-1].state.adapter)


def test_a_killed_run_goes_on_to_the_same_bits(tiny_bert: Path, tmp_path: Path) -> None:
    whole = list(federation(tiny_bert, STRONG).run())
    for rounds in (2, 3, 4):
        checkpoints = Checkpoints(tmp_path / str(rounds))
        for result in islice(federation(tiny_bert, STRONG).run(), rounds):
            checkpoints.save(result)
        last = checkpoints.latest()
        assert last is not None
        rest: list[RoundResult] = list(federation(tiny_bert, STRONG).run(last))
        assert len(rest) == 6 - rounds
        for mine, other in zip(rest, whole[rounds:], strict=True):
            assert same_state(mine.state, other.state)
            assert mine.record.metrics == other.record.metrics
            assert mine.record.downlink_bytes == other.record.downlink_bytes
    assert whole[2].state.numbers != whole[-1].state.numbers, "ranks that fall after the kill as well"
