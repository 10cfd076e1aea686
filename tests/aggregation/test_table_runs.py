"""The battery over the table of rules, on whole federations with real training. See ``test_table``."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfit.aggregation.table import RULES
from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order, Reply
from fedfit.core.update import HEAD, LORA_A, LORA_B, PAIRS, Update, named_tensors
from fedfit.errors import TrainingStopped, UpdateRefused
from fedfit.experiment.build import Experiment, assemble
from fedfit.records import RoundResult
from fedfit.rounds.devices import completed
from fedfit.rounds.link import Link
from fedfit.rounds.loop import initial_result, run_round
from fedfit.tracking.checkpoint import Checkpoints
from fedfit.tracking.memories import DeviceMemories
from tests.aggregation.facts import FACTS, close, each_rule, model, product, same_state, whole
from tests.aggregation.watching import change_training, uploads_of
from tests.builders import packed, randomise, tiny_experiment, tiny_recipe

RANK, ALPHA = 4, 4.0
ONE_STEP = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.0, "max_grad_norm": 0.0, "batch_size": 64}
UNEVEN = [np.arange(0, 6), np.arange(6, 30), np.arange(30, 48)]
SAME = [np.arange(16)] * 3


def federation(
    folder: Path,
    name: str,
    ranks: tuple[int, ...] | None = (1, 2, RANK),
    parts: list[np.ndarray] | None = None,
    memories: Path | None = None,
    **sections: Any,
) -> Experiment:
    """Three devices under the rule, of mixed ``ranks`` where it takes them; one more where the rule needs three replies and one
    is lost. B is not zero, so that all groups are felt."""
    entry, fact = RULES[name], FACTS[name]
    held = parts or UNEVEN
    held = held + held[:1] if fact.least == len(held) else held
    own = {} if entry.keys is None else {name: entry.keys(**fact.keys)}
    settings = {
        "rule": name,
        "options": own,
        "rounds": 3,
        "devices": len(held),
        "devices_per_round": len(held),
        "max_failed_rounds": 2,
        "ranks": ranks if entry.traits().mixed_ranks else None,
    }
    adapter = {"rank": RANK, "alpha": ALPHA, **sections.pop("adapter", {})}
    recipe = tiny_recipe(folder, federation=settings, adapter=adapter, **sections)
    made = tiny_experiment(recipe, None, parts=held)
    randomise(made.parts.model, seed=4)
    return assemble(replace(made.parts, memories=DeviceMemories(memories)))


def model_after(made: Experiment, rounds: int) -> Update:
    return made.rule.server.model(list(islice(made.run(), rounds + 1))[-1].state).update


@pytest.mark.parametrize("name", [name for name, fact in FACTS.items() if fact.equal != "own"])
def test_equal_ranks_equal_data_and_one_step(name: str, tiny_bert: Path) -> None:
    """FedAvg's adapter, or the one that FACTS names; a gradient does not depend on which groups are trained beside it."""
    made = federation(tiny_bert, name, None, SAME, training=ONE_STEP)
    after = model_after(made, 1)
    expected = model_after(federation(tiny_bert, "fedavg", None, SAME, training=ONE_STEP), 1)
    before, fact, traits = named_tensors(made.initial), FACTS[name], made.rule.traits
    if fact.equal == "product":
        close(after, expected, 1e-5)
        return
    for full, tensor in named_tensors(after).items():
        wanted = named_tensors(expected)[full]
        assert not torch.allclose(wanted, before[full], rtol=1e-3, atol=0), "a test of nothing"
        learned = full.partition(".")[0] in traits.trained(1, made.initial.present) - traits.private
        if fact.equal == "trained" and not learned:
            assert torch.equal(tensor, before[full])
        else:
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, fact in FACTS.items() if fact.exact])
def test_the_exact_rules_are(name: str, tiny_bert: Path) -> None:
    """Two rounds of a real federation: ΔW = Σ p_i s_i B_iA_i of what devices had in hand. Ranks 1 + 1 + 2 fit into 4."""
    made = federation(tiny_bert, name, (1, 1, 2), training={"local_epochs": 2})
    uploads, server = uploads_of(made), made.rule.server
    sizes = [1.0 if made.federation.uniform else float(len(part)) for part in made.parts.held]
    shares = [own / sum(sizes) for own in sizes]
    results = list(islice(made.run(), 1))
    for result in islice(made.run(results[0]), 2):
        after, before = model(made.rule, result.state), server.model(results[-1].state).merged_delta
        results.append(result)
        assert len(uploads) == 3
        for module, pair in after.factors.items():
            own = [whole(before, update).factors[module] for update in uploads]
            exact = sum(share * product(mine) for share, mine in zip(shares, own, strict=True))
            assert isinstance(exact, Tensor)
            assert float((product(pair) - exact).norm()) < 1e-6 * float(exact.norm())
            spread = max(float((product(mine) - exact).norm()) for mine in own)
            assert spread > 1e-2 * float(exact.norm()), "devices that agree prove nothing"
        uploads.clear()
    assert len(results) == 3


@each_rule
def test_what_the_server_has_changes_what_devices_upload(name: str, tiny_bert: Path) -> None:
    """Round 2 from the state after round 1, and from the untrained one: every tensor that is trained differs."""
    made = federation(tiny_bert, name, training={"local_epochs": 2})
    first, second = islice(made.run(), 2)
    rounds = []
    for state in (second.state, first.state):
        uploads = uploads_of(made)
        next(made.run(replace(second, state=state)))
        rounds.append(list(uploads))
    trains = made.rule.traits.trained(2, made.initial.present)
    for mine, other in zip(*rounds, strict=True):
        theirs = named_tensors(other)
        for full, tensor in named_tensors(mine).items():
            assert full.partition(".")[0] not in trains or not torch.equal(tensor, theirs[full])


@each_rule
def test_the_head_is_counted(name: str, tiny_bert: Path) -> None:
    """Without it each packet is shorter by its numbers of four bytes, and their names, both ways."""
    lines, numbers = {}, {}
    for head in ("train", "freeze"):
        made = federation(tiny_bert, name, adapter={"head": head})
        lines[head] = list(islice(made.run(), 2))[-1].devices
        numbers[head] = sum(tensor.numel() for tensor in made.initial.groups.get(HEAD, {}).values())
    assert (numbers["train"] > 0, numbers["freeze"]) == (True, 0)
    head_bytes = 4 * numbers["train"] * FACTS[name].copies
    for full, bare in zip(lines["train"], lines["freeze"], strict=True):
        assert (full.refused, bare.refused) == (None, None)
        for mine, other in ((full.uplink_bytes, bare.uplink_bytes), (full.downlink_bytes, bare.downlink_bytes)):
            assert head_bytes < mine - other < head_bytes + 1000


# Replies that do not fit

Spoil = Callable[[Update], Update]


@dataclass(frozen=True)
class Changed:
    """A link on which the reply of device 1 goes through ``change``."""

    link: Link
    change: Spoil

    def exchange(self, orders: Iterable[Order], deadline_s: float | None = None) -> Iterator[Reply]:
        for reply in self.link.exchange(orders, deadline_s):
            if reply.device == 1 and reply.packet is not None:
                reply = replace(reply, packet=packed(self.change(PlainCodec().decode(reply.packet))))
            yield reply


def _modules(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    """The modules of both factors and of the scales."""

    def spoil(update: Update) -> Update:
        groups = {group: change(dict(update.groups[group])) for group in PAIRS & update.present}
        return replace(update.with_groups(groups), scales=change(dict(update.scales)))

    return spoil


def _one_more(tensors: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(tensors.values()))
    return {**tensors, "layer.9.query": first.clone() if isinstance(first, Tensor) else first}


def _one_less(tensors: dict[str, Any]) -> dict[str, Any]:
    return dict(list(tensors.items())[1:])


def _group(group: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Spoil:
    return lambda update: update.with_groups({group: change(dict(update.groups[group]))})


def _first(group: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    """The first tensor of the group."""

    def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name, tensor = next(iter(tensors.items()))
        return {**tensors, name: change(tensor)}

    return _group(group, changed)


def _spoils(group: str) -> dict[str, tuple[frozenset[str], Spoil]]:
    """Of one group: a tensor too few or too many, or of another shape, type or value."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "a row less": lambda tensor: tensor[1:],
        "one more dimension": lambda tensor: tensor[None],
        "NaN": lambda tensor: tensor * math.nan,
        "infinity": lambda tensor: tensor + math.inf,
        "another type": Tensor.double,
    }
    kinds = {f"{group}: {kind}": (frozenset({group}), _first(group, change)) for kind, change in changes.items()}
    if group not in PAIRS:
        kinds[f"{group}: a tensor less"] = frozenset({group}), _group(group, _one_less)
        kinds[f"{group}: a tensor more"] = frozenset({group}), _group(group, lambda own: {**own, "stray": torch.zeros(2)})
    return kinds


SPOILS: dict[str, tuple[frozenset[str], Spoil]] = {
    "a module less": (PAIRS, _modules(_one_less)),
    "a module more": (PAIRS, _modules(_one_more)),
    "a column of B less": (frozenset({LORA_B}), _first(LORA_B, lambda b: b[:, 1:])),
    "another scale": (frozenset({HEAD}), lambda update: replace(update, scales=dict.fromkeys(update.scales, 9.0))),
    "a weight beyond its samples": (frozenset({HEAD}), lambda update: replace(update, weight=1e6)),
    "a group more": (frozenset({HEAD}), lambda update: update.with_groups({"stray": {"x": torch.zeros(2)}})),
    **_spoils(LORA_A),
    **_spoils(LORA_B),
    **_spoils(HEAD),
    **_spoils("values"),
    **_spoils("variates"),
}


@each_rule
def test_what_does_not_fit_is_refused_and_the_round_goes_on(name: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, name, training={"local_steps": 1})
    sound, start = made.federation, initial_result(made.federation, made.initial).state
    seen = list[frozenset[str]]()

    def look(update: Update) -> Update:
        seen.append(update.present)
        return update

    made.federation = replace(sound, link=Changed(sound.link, look))
    assert run_round(made.federation, start, 1).record.refused == 0, "decoding and encoding alone spoil nothing"

    def refuse(number: int, device: int, update: Update) -> Update:
        if device == 1:
            raise UpdateRefused("not today")
        return update

    change_training(made, refuse)
    without = run_round(sound, start, 1)
    assert not same_state(without.state, start)
    change_training(made, lambda number, device, update: update)
    kinds = [kind for kind, (groups, _) in SPOILS.items() if groups & seen[0]]
    assert len(kinds) >= 9
    for kind in kinds:
        result = run_round(replace(sound, link=Changed(sound.link, SPOILS[kind][1])), start, 1)
        assert [device.device for device in result.devices if device.refused is not None] == [1], kind
        assert (result.record.refused, result.record.devices) == (1, len(made.parts.held))
        assert same_state(result.state, without.state), kind
        assert result.devices[1].refused != "not today"
        assert result.devices[1].uplink_bytes > 0, "what was refused was sent"


@each_rule
@pytest.mark.parametrize("other", [PAIRS | {HEAD}, PAIRS, frozenset({HEAD}), frozenset()], ids=sorted)
def test_a_reply_of_other_groups_than_ordered_is_refused(name: str, other: frozenset[str], tiny_bert: Path) -> None:
    """Less would count the server's own tensors as a device's; more would move what all should share."""
    made = federation(tiny_bert, name, None, training={"local_steps": 1})
    groups = made.initial.present

    def chosen(update: Update) -> Update:
        return completed(update, made.initial).only(other | (update.present - groups))

    changed = replace(made.federation, link=Changed(made.federation.link, chosen))
    result = run_round(changed, initial_result(changed, made.initial).state, 1)
    fits = other == made.rule.traits.uplink_groups(1, groups)
    assert [device.device for device in result.devices if device.refused is not None] == ([] if fits else [1])


@each_rule
def test_when_all_are_refused_the_model_stays_and_the_run_stops(name: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, name, training={"local_steps": 1})
    devices = len(made.parts.held)
    change_training(made, lambda number, device, update: _first(HEAD, lambda tensor: tensor + math.inf)(update))
    seen: list[RoundResult] = []
    with pytest.raises(TrainingStopped, match=r"no update of the last 2 rounds was usable; .* is not finite"):
        seen.extend(made.run())
    assert [(result.record.round, result.record.refused) for result in seen] == [(0, 0), (1, devices), (2, devices)]
    for result in seen:
        assert same_state(result.state, seen[0].state)
        close(model(made.rule, result.state), made.initial)


@each_rule
def test_a_killed_run_goes_on_to_the_same_bits(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    def made(folder: str) -> Experiment:
        return federation(tiny_bert, name, memories=tmp_path / folder, training={"local_steps": 2})

    uninterrupted = list(made("one").run())
    checkpoints = Checkpoints(tmp_path)
    for result in islice(made("two").run(), 2):
        checkpoints.save(result)
    last = Checkpoints(tmp_path).latest()
    assert last is not None
    assert same_state(last.state, uninterrupted[1].state)
    rest = list(made("two").run(last))
    assert len(rest) == 2
    for mine, other in zip(rest, uninterrupted[2:], strict=True):
        assert same_state(mine.state, other.state)
        assert replace(mine.record, server_seconds=None, seconds=0) == replace(other.record, server_seconds=None, seconds=0)
        lines = [[replace(device, seconds=0) for device in result.devices] for result in (mine, other)]
        assert lines[0] == lines[1]
