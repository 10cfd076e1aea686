"""The battery over the whole table of rules: what must hold of each, whatever its formula.

A new rule is picked up by itself. It needs an entry in ``FACTS``: what its formula says where rules differ.
"""

import gc
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfit.aggregation.base import Rule, named_tensors
from fedfit.aggregation.fedavg import FedAvg
from fedfit.aggregation.rules import RULES, make_rule
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.errors import TrainingStopped, UpdateRefused
from fedfit.records import PARTS, AdapterSize, Factors, Order, Origin, Reply, RoundResult, ServerState, Task, Update
from fedfit.rounds.client import Client
from fedfit.rounds.federation import Federation
from fedfit.rounds.link import Link
from fedfit.rounds.round import initial_result, run_round
from fedfit.settings import FederationSettings, Recipe
from fedfit.simulation.run import Simulation, run
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.builders import link_of, random_update, randomise, same_bits, tiny_recipe, tiny_simulation


@dataclass(frozen=True)
class Facts:
    """Where rules differ.

    ``equal``: with equal ranks, equal data and one step the global adapter has FedAvg's ``factors``; or another pair of
    factors with FedAvg's ``product`` and head; or those of FedAvg that were ``trained`` and sent, the rest as it was; or its
    ``own``, which a test of its own derives.
    ``exact``: the server's ``s·B·A`` is ``Σ p_i s_i B_iA_i``, where the global rank can hold it.
    ``by_norm``: a device's weight counts times ``‖s·B·A‖_F`` of what it sent.
    ``still``: the global adapter stays when devices of mixed ranks return what they were sent.
    ``keeps``: what it holds of all updates of a round at once.
    ``keys``: of ``[federation]``, with which a whole federation has all this.
    """

    equal: str
    exact: bool = False
    by_norm: bool = False
    still: bool = True
    keeps: str = "nothing"
    keys: Mapping[str, Any] = field(default_factory=dict)


FACTS = {
    "fedavg": Facts("factors"),
    "ffa_lora": Facts("trained", exact=True),
    "rolora": Facts("trained", exact=True),
    "hetlora": Facts("factors", by_norm=True, still=False),
    "flexlora": Facts("product", exact=True, still=False, keeps="factors"),
    "fslora": Facts("factors"),
    "flora": Facts("own", exact=True, keeps="factors"),
    "fedex_lora": Facts("factors", exact=True, keeps="factors"),
    "fedsa_lora": Facts("trained"),
    "local_only": Facts("own"),
    "flasc": Facts("factors", keys={"download_density": 1.0, "upload_density": 1.0}),
    "slora": Facts("own"),
}

each_rule = pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.home != PARTS])
"""Each whose devices share something; local_only has tests of its own."""


def test_every_rule_has_its_facts() -> None:
    assert set(FACTS) == set(RULES)
    assert {fact.equal for fact in FACTS.values()} <= {"factors", "product", "trained", "own"}


@each_rule
def test_a_recipe_names_it(name: str) -> None:
    assert type(make_rule(Recipe(federation=FederationSettings(rule=name)), 3)) is RULES[name]


# Small updates, without a model

RANK, ALPHA = 4, 4.0
WEIGHTS = (3.0, 5.0, 11.0, 2.0)


def size(rank: int, alpha: float = ALPHA) -> AdapterSize:
    return AdapterSize(rank, alpha / rank)


START = random_update(99, rank=RANK, scale=size(RANK).scale)


def product(factors: Factors) -> Tensor:
    return factors.scale * factors.b.double() @ factors.a.double()


def whole(base: Mapping[str, Tensor], update: Update) -> Update:
    """``update`` over the weights that ``base`` was merged into, as one pair; itself where nothing was."""
    merged = {
        name: Factors(torch.eye(pair.a.shape[1], dtype=torch.float64), base[name].double() + product(pair), 1.0)
        for name, pair in update.factors.items()
        if name in base
    }
    return replace(update, factors={**update.factors, **merged})


def model(rule: Rule, state: Any) -> Update:
    """What a state of the server amounts to."""
    return whole(rule.base(state), rule.adapter(state))


def norm(update: Update) -> float:
    return math.sqrt(sum(float(product(pair).square().sum()) for pair in update.factors.values()))


def ranks_of(rule: Rule) -> list[int]:
    """Mixed where they may be, and one of them the global rank."""
    return [1, 2, RANK, 3] if rule.mixed_ranks else [RANK] * 4


def dispatched(rule: Rule, state: Any, device: int, rank: int, alpha: float = ALPHA) -> Update:
    """What ``device`` is sent, as the server remembers it."""
    seed = 1000 + device
    return replace(rule.dispatch(state, device, size(rank, alpha), seed), origin=Origin(device, seed))


def trained(rule: Rule, sent: Update, weight: float, amount: float = 1.0, initial: Update = START) -> Update:
    """What the server reads of a device that adds noise to what it trains in round 1; copies, as from a packet.

    The noise is as large in the product whatever the scale. The device has drawn ``initial`` itself.
    """
    codec, parts = SafetensorsCodec(), rule.sends(1)
    task, done = in_hand(rule, sent, weight, amount, initial)
    reply, _ = rule.send(task, done, None)
    read = codec.decode(codec.encode(reply, parts), sent, parts)
    factors = {name: Factors(pair.a.clone(), pair.b.clone(), pair.scale) for name, pair in read.factors.items()}
    return replace(read, factors=factors, origin=sent.origin)


def in_hand(rule: Rule, sent: Update, weight: float, amount: float = 1.0, initial: Update = START) -> tuple[Task, Update]:
    """What that device starts from, and where it comes to."""
    assert sent.origin is not None
    codec = SafetensorsCodec()
    task = rule.receive(codec.decode(codec.encode(sent, rule.gets(1)), initial), None)
    start = task.update
    rank = len(next(iter(start.factors.values())).a)
    noise, parts = random_update(sent.origin.device, rank=rank), rule.trains(1) - rule.home
    factors = {
        name: Factors(
            pair.a + noise.factors[name].a * (amount * ("a" in parts)),
            pair.b + noise.factors[name].b * (amount * ("b" in parts) * ALPHA / RANK / pair.scale),
            pair.scale,
        )
        for name, pair in start.factors.items()
    }
    head = {n: t + noise.head[n] * (amount * ("head" in parts)) for n, t in start.head.items()}
    return task, replace(start, factors=factors, head=head, weight=weight)


def one_round(rule: Rule, weights: Sequence[float] = WEIGHTS, ranks: list[int] | None = None) -> tuple[Any, list[Update]]:
    state = rule.init(START)
    ranks = ranks or ranks_of(rule)
    sent = [dispatched(rule, state, device, rank) for device, rank in enumerate(ranks[: len(weights)])]
    return state, [trained(rule, update, weight) for update, weight in zip(sent, weights, strict=True)]


def close(left: Update, right: Update, tolerance: float = 1e-6) -> None:
    """The same model: products, scales included, and heads."""
    for name, pair in left.factors.items():
        difference = product(pair) - product(right.factors[name])
        assert float(difference.norm()) <= tolerance * float(product(pair).norm())
    for name, tensor in left.head.items():
        torch.testing.assert_close(tensor, right.head[name], rtol=tolerance, atol=tolerance)


def same_state(left: Any, right: Any) -> bool:
    if not isinstance(left, ServerState):
        return same_bits(left, right)
    tensors = left.tensors.keys() == right.tensors.keys() and all(
        torch.equal(t, right.tensors[n]) for n, t in left.tensors.items()
    )
    return tensors and left.numbers == right.numbers and same_bits(left.adapter, right.adapter)


@each_rule
def test_without_an_update_nothing_changes(name: str) -> None:
    rule = RULES[name]()
    state = rule.init(START)
    assert same_state(rule.apply(state, iter([])), state)
    close(model(rule, state), START)


@each_rule
def test_neither_state_nor_updates_are_changed(name: str) -> None:
    rule = RULES[name]()
    state, updates = one_round(rule)
    rule.apply(state, iter(updates))
    again, same = one_round(rule)
    assert same_state(state, again)
    assert all(same_bits(mine, other) for mine, other in zip(updates, same, strict=True))
    assert same_bits(START, random_update(99, rank=RANK, scale=size(RANK).scale))


@each_rule
@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_order_of_the_devices_is_float_noise(name: str, order: tuple[int, ...]) -> None:
    rule = RULES[name]()
    state, updates = one_round(rule)
    straight = model(rule, rule.apply(state, iter(updates)))
    close(straight, model(rule, rule.apply(state, iter([updates[device] for device in order]))))


@each_rule
@pytest.mark.parametrize("weight", [1e-6, 1.0, 40_000.0])
def test_one_device_alone_gives_its_own_update(name: str, weight: float) -> None:
    rule = RULES[name]()
    state = rule.init(START)
    sent = dispatched(rule, state, 0, RANK)
    after = model(rule, rule.apply(state, iter([trained(rule, sent, weight)])))
    close(after, whole(rule.base(state), in_hand(rule, sent, weight)[1]))
    assert not same_bits(after, START)


@each_rule
def test_devices_that_learn_nothing(name: str) -> None:
    """What is cut out of the global adapter goes back to where it was; only a rule that cuts for good loses by it."""
    rule = RULES[name]()
    state = rule.init(START)
    sent = [dispatched(rule, state, device, rank) for device, rank in enumerate(ranks_of(rule))]
    after = model(rule, rule.apply(state, iter([trained(rule, update, 1.0, amount=0.0) for update in sent])))
    moved = max(float((product(pair) - product(START.factors[n])).norm()) for n, pair in after.factors.items())
    assert moved < 1e-5 if FACTS[name].still else moved > 0.1
    for head, tensor in after.head.items():
        torch.testing.assert_close(tensor, START.head[head], rtol=1e-6, atol=1e-6)


@each_rule
@pytest.mark.parametrize("factor", [1e-9, 0.125, 1e9])
def test_weights_that_sum_to_anything_are_normalised(name: str, factor: float) -> None:
    rule = RULES[name]()
    state, updates = one_round(rule)
    plain = model(rule, rule.apply(state, iter(updates)))
    scaled = [replace(update, weight=update.weight * factor) for update in updates]
    close(plain, model(rule, rule.apply(state, iter(scaled))))
    # The weights do count.
    uneven = [replace(update, weight=update.weight * (1 + update.origin.device)) for update in updates if update.origin]
    other = rule.adapter(rule.apply(state, iter(uneven)))
    assert not torch.allclose(plain.head["classifier.weight"], other.head["classifier.weight"], rtol=1e-2, atol=1e-2)


@each_rule
def test_more_alpha_and_smaller_factors_are_the_same_model(name: str) -> None:
    """α = 8 with B halved, at the server and in what devices learn, is α = 4, for ranks 1 to 4 in one round."""
    rule = RULES[name]()
    halved = {n: Factors(pair.a, pair.b / 2, pair.scale * 2) for n, pair in START.factors.items()}
    initial = replace(START, factors=halved)
    plain, other = rule.init(START), rule.init(initial)
    mine, theirs = [], []
    for device, (rank, weight) in enumerate(zip(ranks_of(rule), WEIGHTS, strict=True)):
        left, right = dispatched(rule, plain, device, rank), dispatched(rule, other, device, rank, 2 * ALPHA)
        close(left, right)
        assert all(pair.scale * 2 == right.factors[n].scale for n, pair in left.factors.items())
        mine.append(trained(rule, left, weight))
        theirs.append(trained(rule, right, weight, initial=initial))
        close(in_hand(rule, left, weight)[1], in_hand(rule, right, weight, initial=initial)[1])
    close(model(rule, rule.apply(plain, iter(mine))), model(rule, rule.apply(other, iter(theirs))))


@each_rule
def test_the_head_is_the_weighted_mean(name: str) -> None:
    rule = RULES[name]()
    state, updates = one_round(rule)
    shares = np.array([update.weight * (norm(update) if FACTS[name].by_norm else 1.0) for update in updates])
    shares /= shares.sum()
    after = rule.adapter(rule.apply(state, iter(updates)))
    for head in START.head:
        expected = sum(share * update.head[head].double() for share, update in zip(shares, updates, strict=True))
        torch.testing.assert_close(after.head[head].double(), expected, rtol=1e-6, atol=1e-6)


@each_rule
def test_one_update_is_in_memory_at_a_time(name: str) -> None:
    """A count of the tensors of earlier updates that are still there when the next is made."""
    rule = RULES[name]()
    state = rule.init(START)
    factors: weakref.WeakSet[Tensor] = weakref.WeakSet()
    heads: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = {"factors": 0, "head": 0}

    def updates() -> Iterator[Update]:
        for device, rank in enumerate(ranks_of(rule)):
            gc.collect()
            most["factors"], most["head"] = max(most["factors"], len(factors)), max(most["head"], len(heads))
            update = trained(rule, dispatched(rule, state, device, rank), 1.0)
            factors.update(tensor for pair in update.factors.values() for tensor in (pair.a, pair.b))
            heads.update(update.head.values())
            yield update
            del update

    rule.apply(state, updates())
    kept = 3 * 2 * 2 if FACTS[name].keeps == "factors" else 0  # of three updates before the last, A and B of two modules
    assert most == {"factors": kept, "head": 0}


def test_the_bias_of_fedavg_is_its_closed_form() -> None:
    """ΣpB·ΣpA − ΣpBA = −½ Σ_ij p_i p_j (B_i − B_j)(A_i − A_j): multiply out, and use Σp = 1 once in each term."""
    state, updates = one_round(FedAvg())
    shares = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    after = FedAvg().apply(state, iter(updates))
    for name, pair in after.factors.items():
        own = [update.factors[name] for update in updates]
        exact = sum(share * product(mine) for share, mine in zip(shares, own, strict=True))
        bias = torch.zeros_like(product(pair))
        for p, mine in zip(shares, own, strict=True):
            for q, other in zip(shares, own, strict=True):
                bias -= 0.5 * p * q * pair.scale * (mine.b - other.b).double() @ (mine.a - other.a).double()
        assert float(bias.norm()) > 0.1 * float(product(pair).norm())
        torch.testing.assert_close(product(pair) - exact, bias, rtol=1e-5, atol=1e-5)


# Whole federations, with real training


class Watched(Client):
    """The real client; keeps a device's updates in ``uploads``, after ``change`` has had its way with them."""

    def watch(self, change: Callable[[int, Update], Update] = lambda device, update: update) -> None:
        self.uploads: list[Update] = []
        self.change = change

    def train(self, task: Task, samples: Any, indices: Any, round_number: int, device: int, parts: Any = PARTS) -> Update:
        update = self.change(device, super().train(task, samples, indices, round_number, device, parts))
        self.uploads.append(update)
        return update


ONE_STEP = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 0.0, "batch_size": 64}
UNEVEN = [np.arange(0, 6), np.arange(6, 30), np.arange(30, 48)]


def federation(
    folder: Path,
    name: str,
    ranks: tuple[int, ...] | None = (1, 2, RANK),
    parts: list[np.ndarray] | None = None,
    **sections: Any,
) -> tuple[Simulation, Watched]:
    """Three devices under the rule, of mixed ``ranks`` where it takes them. B is not zero, so that all parts are felt."""
    own = ranks if RULES[name].mixed_ranks else None
    settings = {
        "rule": name,
        "rounds": 3,
        "max_failed_rounds": 2,
        "ranks": own,
        **FACTS[name].keys,
        **sections.pop("federation", {}),
    }
    adapter = {"rank": RANK, "alpha": ALPHA, **sections.pop("adapter", {})}
    recipe = tiny_recipe(folder, federation=settings, adapter=adapter, **sections)
    made = tiny_simulation(recipe, None, parts=parts or UNEVEN)
    randomise(made.model, seed=4)
    made.initial = made.model.adapter.snapshot()
    client = Watched(made.model, made.trunk, recipe.training, recipe.seed, recipe.federation.rounds)
    client.watch()
    made.client = client
    return made, client


def adapter_after(made: Simulation, rounds: int) -> Update:
    return made.rule.adapter(list(islice(run(made), rounds + 1))[-1].state)


@pytest.mark.parametrize("name", [name for name, fact in FACTS.items() if fact.equal != "own"])
def test_equal_ranks_equal_data_and_one_step(name: str, tiny_bert: Path) -> None:
    """What FedAvg gives, or what FACTS says; a gradient does not depend on which parts are trained beside it."""
    same_data = [np.arange(16)] * 3
    made, _ = federation(tiny_bert, name, None, same_data, training=ONE_STEP)
    after = adapter_after(made, 1)
    twin, _ = federation(tiny_bert, "fedavg", None, same_data, training=ONE_STEP)
    expected = adapter_after(twin, 1)
    before, fact = named_tensors(made.initial), FACTS[name]
    if fact.equal == "product":
        close(after, expected, 1e-5)
        return
    for tensor_name, tensor in named_tensors(after).items():
        wanted = named_tensors(expected)[tensor_name]
        assert not torch.allclose(wanted, before[tensor_name], rtol=1e-3, atol=0), "a test of nothing"
        part = "head" if tensor_name.startswith("head ") else tensor_name[-1].lower()
        if fact.equal == "trained" and part not in made.rule.trains(1) - made.rule.home:
            assert torch.equal(tensor, before[tensor_name])
        else:
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, fact in FACTS.items() if fact.exact])
def test_the_exact_rules_are(name: str, tiny_bert: Path) -> None:
    """Two rounds of a real federation: ΔW = Σ p_i s_i B_iA_i of what devices had in hand. Ranks 1 + 1 + 2 fit into 4."""
    made, client = federation(tiny_bert, name, (1, 1, 2), training={"local_epochs": 2})
    sizes = [1.0 if made.rule.uniform else float(len(part)) for part in made.parts]
    shares = [own / sum(sizes) for own in sizes]
    rounds = list(islice(run(made), 1))
    for result in run(made, last=rounds[0]):
        after, before = model(made.rule, result.state), made.rule.base(rounds[-1].state)
        rounds.append(result)
        for module, pair in after.factors.items():
            own = [whole(before, update).factors[module] for update in client.uploads]
            exact = sum(share * product(mine) for share, mine in zip(shares, own, strict=True))
            assert isinstance(exact, Tensor)
            assert float((product(pair) - exact).norm()) < 1e-6 * float(exact.norm())
            spread = max(float((product(mine) - exact).norm()) for mine in own)
            assert spread > 1e-2 * float(exact.norm()), "devices that agree prove nothing"
        client.watch()
        if len(rounds) == 3:
            break


@each_rule
def test_what_the_server_has_changes_what_devices_upload(name: str, tiny_bert: Path) -> None:
    """Round 2 from the state after round 1, and from the untrained one: every tensor that is sent differs."""
    made, client = federation(tiny_bert, name, training={"local_epochs": 2})
    first, second = islice(run(made), 2)
    uploads = []
    for state in (second.state, first.state):
        client.watch()
        next(run(made, last=replace(second, state=state)))
        uploads.append(client.uploads)
    for mine, other in zip(*uploads, strict=True):
        theirs = named_tensors(other)
        for tensor_name, tensor in named_tensors(mine).items():
            part = "head" if tensor_name.startswith("head ") else tensor_name[-1].lower()
            assert part not in made.rule.trains(2) or not torch.equal(tensor, theirs[tensor_name])


@each_rule
def test_the_head_is_counted(name: str, tiny_bert: Path) -> None:
    """Without it each packet is shorter by its numbers of four bytes, and their names, both ways."""
    lines, numbers = {}, {}
    for head in ("train", "freeze"):
        made, _ = federation(tiny_bert, name, adapter={"head": head})
        lines[head] = list(islice(run(made), 2))[-1].devices
        numbers[head] = sum(tensor.numel() for tensor in made.initial.head.values())
    assert (numbers["train"] > 0, numbers["freeze"]) == (True, 0)
    head_bytes = 4 * numbers["train"]
    for whole, bare in zip(lines["train"], lines["freeze"], strict=True):
        for mine, other in ((whole.uplink_bytes, bare.uplink_bytes), (whole.downlink_bytes, bare.downlink_bytes)):
            assert head_bytes < mine - other < head_bytes + 1000


def _more(update: Update) -> Update:
    pair = next(iter(update.factors.values()))
    return replace(update, factors={**update.factors, "layer.9.query": replace(pair, a=pair.a.clone(), b=pair.b.clone())})


def _less(update: Update) -> Update:
    return replace(update, factors=dict(list(update.factors.items())[1:]))


def _with_b(change: Callable[[Tensor], Tensor]) -> Callable[[Update], Update]:
    def spoil(update: Update) -> Update:
        name, pair = next(iter(update.factors.items()))
        return replace(update, factors={**update.factors, name: replace(pair, b=change(pair.b))})

    return spoil


def _with_head(change: Callable[[Tensor], Tensor]) -> Callable[[Update], Update]:
    def spoil(update: Update) -> Update:
        name, tensor = next(iter(update.head.items()))
        return replace(update, head={**update.head, name: change(tensor)})

    return spoil


def _refuse(update: Update) -> Update:
    raise UpdateRefused("not today")


SPOILS: dict[str, Callable[[Update], Update]] = {
    "a module less, A and B": _less,
    "a module more": _more,
    "a head tensor less": lambda update: replace(update, head=dict(list(update.head.items())[1:])),
    "a head tensor more": lambda update: replace(update, head={**update.head, "stray": torch.zeros(2)}),
    "a column of B less": _with_b(lambda b: b[:, 1:]),
    "a row of B less": _with_b(lambda b: b[1:]),
    "a misshapen head": _with_head(lambda tensor: tensor[None]),
    "NaN in B": _with_b(lambda b: b * math.nan),
    "infinity in the head": _with_head(lambda tensor: tensor + math.inf),
    "another type of B": _with_b(Tensor.double),
}


@each_rule
def test_what_does_not_fit_is_refused_and_the_round_goes_on(name: str, tiny_bert: Path) -> None:
    made, client = federation(tiny_bert, name, training={"local_steps": 1})

    def round_one(spoil: Callable[[Update], Update]) -> RoundResult:
        client.watch(lambda device, update: spoil(update) if device == 1 else update)
        return list(islice(run(made), 2))[-1]

    without = round_one(_refuse)
    assert not same_state(without.state, made.rule.init(made.initial))
    for kind, spoil in SPOILS.items():
        if "B" in kind and "b" in made.rule.home:
            continue  # it does not leave the device
        if ("B" in kind or "module" in kind) and kind != "NaN in B" and not {"a", "b"} & made.rule.sends(1):
            continue  # factors do not travel as they are; what does has tests of its own
        result = round_one(spoil)
        assert [device.refused is not None for device in result.devices] == [False, True, False], kind
        assert (result.record.refused, result.record.devices) == (1, 3)
        assert same_state(result.state, without.state), kind
        assert result.devices[1].refused != "not today"
        assert result.devices[1].uplink_bytes > 0, "what was refused was sent"


@dataclass(frozen=True)
class OtherParts:
    """A link whose device 1 answers with other parts than it was asked for, all of them sound."""

    link: Link
    parts: frozenset[str]
    base: Update

    def exchange(self, orders: Iterable[Order]) -> Iterator[Reply]:
        codec = SafetensorsCodec()
        for reply in self.link.exchange(orders):
            assert reply.packet is not None
            packet = codec.encode(codec.decode(reply.packet, self.base), self.parts)
            yield replace(reply, packet=packet) if reply.device == 1 else reply


@each_rule
@pytest.mark.parametrize("other", [PARTS, frozenset({"a", "b"}), frozenset({"head"}), frozenset()], ids=sorted)
def test_a_reply_of_other_parts_than_ordered_is_refused(name: str, other: frozenset[str], tiny_bert: Path) -> None:
    """Less would count the server's own tensors as a device's; more would move what all should share."""
    made, _ = federation(tiny_bert, name, None, training={"local_steps": 1})
    plain = link_of(made)
    size_of, samples = made.recipe.adapter.size, [len(part) for part in made.parts]
    whole = Federation(
        made.rule,
        made.codec,
        OtherParts(plain, other, made.initial),
        made.score,
        samples,
        3,
        made.recipe.seed,
        size_of,
        [RANK] * 3,
    )
    result = run_round(whole, initial_result(whole, made.initial).state, 1)
    fits = other == made.rule.sends(1)
    assert [device.refused is not None for device in result.devices] == [False, not fits, False]


@each_rule
def test_when_all_are_refused_the_model_stays_and_the_run_stops(name: str, tiny_bert: Path) -> None:
    made, client = federation(tiny_bert, name, training={"local_steps": 1})
    client.watch(lambda device, update: SPOILS["infinity in the head"](update))
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match=r"every update of the last 2 rounds was refused; .* is not finite"):
        seen.extend(run(made))
    assert [(result.record.round, result.record.refused) for result in seen] == [(0, 0), (1, 3), (2, 3)]
    for result in seen:
        assert same_state(result.state, seen[0].state)
        close(model(made.rule, result.state), made.initial)


@each_rule
def test_a_killed_run_goes_on_to_the_same_bits(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    def made(folder: str) -> Simulation:
        simulation, _ = federation(tiny_bert, name, training={"local_steps": 2})
        simulation.memories = DeviceMemories(tmp_path / folder)
        return simulation

    uninterrupted = list(run(made("one")))
    checkpoints = Checkpoints(tmp_path)
    for result in islice(run(made("two")), 2):
        checkpoints.save(result)
    last = Checkpoints(tmp_path).latest()
    assert last is not None
    assert same_state(last.state, uninterrupted[1].state)
    rest = list(run(made("two"), last=last))
    for mine, other in zip(rest, uninterrupted[2:], strict=True):
        assert same_state(mine.state, other.state)
        assert replace(mine.record, server_seconds=None, seconds=0) == replace(other.record, server_seconds=None, seconds=0)
        lines = [[replace(device, seconds=0) for device in result.devices] for result in (mine, other)]
        assert lines[0] == lines[1]
