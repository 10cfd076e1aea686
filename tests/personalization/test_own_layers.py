"""PFTT and pFedLoRA: the topmost layers' adapter stays at home, in packets and in the mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fedfit.core.update import HEAD, HOME, LORA_A, PAIRS, Job, Memory, Update, grouped, named_tensors
from fedfit.errors import RecipeError, UpdateRefused
from fedfit.experiment.build import Experiment
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate, validate_offline
from fedfit.personalization.own_layers import with_own
from fedfit.rounds.trainer import Part
from tests.aggregation.watching import record
from tests.builders import same_bits, tiny_split
from tests.personalization.federation import TRAINING, federation, mean, own_of

PRIVATE = {"pftt": HOME, "pfedlora": HOME | {HEAD}}
LAYERS: dict[str, Any] = {"adapter": {"layers": "last:2"}}


def private(name: str, method: str) -> bool:
    return name.partition(".")[0] in PRIVATE[method]


@pytest.mark.parametrize("method", PRIVATE)
def test_a_federation_is_its_slow_twin(method: str, tiny_bert: Path) -> None:
    made, twin = (federation(tiny_bert, method, federation={"weighting": "uniform"}, **LAYERS) for _ in range(2))
    assert made.initial.present >= HOME
    before, own = made.initial, [made.initial.only(PRIVATE[method]).groups] * 4
    for result in made.run():
        number = result.record.round
        if number == 0:
            continue
        trained = [
            (in_turn if method == "pfedlora" else together)(twin, before.with_groups(groups), number, device)
            for device, groups in enumerate(own)
        ]
        own = [update.only(PRIVATE[method]).groups for update in trained]
        expected = mean(trained)
        for name, tensor in named_tensors(result.state.adapter).items():
            if private(name, method):
                assert torch.equal(tensor, named_tensors(made.initial)[name]), "the server's is the first one"
            else:
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)
        for device, update in enumerate(trained):
            kept, wanted = own_of(made, device, number).tensors, named_tensors(update.only(PRIVATE[method]))
            assert kept.keys() == wanted.keys()
            assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())
        first, second = (own_of(made, device, number).tensors for device in (0, 1))
        assert all(not torch.equal(tensor, second[name]) for name, tensor in first.items())
        before = result.state.adapter


def together(made: Experiment, adapter: Update, number: int, device: int) -> Update:
    return train(made, adapter, number, device, None, Part())


def in_turn(made: Experiment, adapter: Update, number: int, device: int) -> Update:
    alone = train(made, adapter, number, device, HOME | {HEAD}, Part(("own",)))
    assert same_bits(alone.only(PAIRS), adapter.only(PAIRS))
    return train(made, alone, number, device, PAIRS, Part())


def train(made: Experiment, adapter: Update, number: int, device: int, groups: frozenset[str] | None, part: Part) -> Update:
    return made.trainer.train(Job(adapter), made.parts.train, TRAINING[device], number, device, groups, part)


@pytest.mark.parametrize("method", PRIVATE)
def test_what_stays_at_home_is_in_no_packet(method: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, method, **LAYERS)
    codec = record(made)
    results = list(made.run())
    assert len(codec.packets) == 2 * 4 * 6
    wanted = {name for name in named_tensors(made.initial) if not private(name, method)}
    assert wanted
    assert all(load(packet.payload).keys() == wanted for packet in codec.packets)
    assert {name.partition("_")[0] for score in results[-1].scores for name in score.metrics} == {"personal"}


def test_pairs_at_home_are_the_topmost_layers(tiny_bert: Path) -> None:
    """They are the same pairs under other names: what a device trains is what it trains of plain LoRA, to the bit."""
    plain, split = (tiny_split(tiny_bert, layers="last:2") for _ in range(2))
    split.adapter.keep_at_home(split.layers[-1:])
    home, all_pairs = split.adapter.snapshot(), plain.adapter.snapshot()
    names = {name for name in all_pairs.factors if f".layer.{split.layers[-1]}." in name}
    assert home.groups["home_A"].keys() == home.groups["home_B"].keys() == names
    assert home.factors.keys() == all_pairs.factors.keys() - names
    assert home.present == {*PAIRS, *HOME, HEAD}
    method: dict[str, Any] = {"training": {"max_grad_norm": 0.0}}
    made = federation(tiny_bert, "pftt", **LAYERS, **method)
    other = federation(tiny_bert, "fine_tune", **LAYERS, **method)
    ours, theirs = (train(each, each.initial, 1, 0, None, Part()) for each in (made, other))
    for name, pair in theirs.factors.items():
        a, b = (ours.factors[name].a, ours.factors[name].b) if name in ours.factors else at_home(ours, name)
        assert torch.equal(a, pair.a)
        assert torch.equal(b, pair.b)


def at_home(update: Update, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return update.groups["home_A"][name], update.groups["home_B"][name]


def test_the_own_part_may_take_steps_of_its_own(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "pfedlora", {"own_steps": 5}, **LAYERS)
    lines = [line for result in made.run() for line in result.devices]
    assert {line.steps for line in lines} == {5 + 2}


@pytest.mark.parametrize("method", ["pfedlora", "fedrep"])
def test_what_the_rule_freezes_stays_frozen(method: str, tiny_bert: Path) -> None:
    """FFA-LoRA's A, also where a method names the groups that it trains."""
    made = federation(tiny_bert, method, federation={"rule": "ffa_lora"}, **LAYERS)
    first = made.initial.groups[LORA_A]
    updates = []
    inner = made.trainer.train
    made.trainer.train = lambda *args, **named: updates.append(inner(*args, **named)) or updates[-1]  # type: ignore
    list(made.run())
    assert len(updates) >= 2 * 4 * 6
    assert all(torch.equal(tensor, first[name]) for update in updates for name, tensor in update.groups[LORA_A].items())


def test_another_models_memory_is_refused(tiny_bert: Path) -> None:
    adapter = federation(tiny_bert, "pftt", **LAYERS).initial
    kept = named_tensors(adapter.only(HOME))
    assert with_own(HOME, Job(adapter), Memory(kept)).update.groups["home_A"].keys() == grouped(kept)["home_A"].keys()
    name, tensor = kept.popitem()
    for wrong in (kept, {**kept, name: tensor, "home_A.other": tensor}):
        with pytest.raises(UpdateRefused, match="another model's"):
            with_own(HOME, Job(adapter), Memory(wrong))


@pytest.mark.parametrize("method", PRIVATE)
def test_faults(method: str, tiny_bert: Path) -> None:
    given = ["evaluation.device_test_share=0.2", f"personalization.method={method}"]

    def faults(*keys: str) -> dict[str, str]:
        found = validate_offline(parse_recipe("", [*given, *keys]))
        return {fault.key: fault.remedy for fault in found}

    assert "one rank" in faults("plan.policy=joint")["plan.policy"]
    ranks = "federation.ranks={choice=[2, 4]}"
    assert "one rank; remove it" in faults("federation.rule=hetlora", ranks)["federation.ranks"]
    key = f"personalization.{method}.own_layers"
    assert "at least 1" in faults(f"{key}=0")[key]
    recipe = parse_recipe("", [*given, f"model.name={tiny_bert}", "adapter.layers=last:2", "data.max_tokens=8", f"{key}=2"])
    with pytest.raises(RecipeError, match=rf"{key} = 2: adapter.layers adapts 2, and one of them at least is shared"):
        validate(recipe)
