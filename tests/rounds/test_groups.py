"""Which groups a device trains: the rest keeps its bits, costs no gradient, and does not come back."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fedfit.codecs.plain import PlainCodec
from fedfit.core.messages import Order
from fedfit.core.update import HEAD, LORA_A, LORA_B, Job, Update, named_tensors
from fedfit.experiment.build import Experiment
from fedfit.rounds.devices import completed
from tests.builders import link_of, lora_of, packed, randomise, same_bits, tiny_experiment, tiny_recipe

ALL = frozenset({LORA_A, LORA_B, HEAD})
SUBSETS = [frozenset(some) for count in (1, 2, 3) for some in combinations(sorted(ALL), count)]
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_steps": 1}

every_subset = pytest.mark.parametrize("groups", SUBSETS, ids=lambda groups: "+".join(sorted(groups)))


def experiment(folder: Path, **sections: Any) -> Experiment:
    made = tiny_experiment(tiny_recipe(folder, **sections), cache=None)
    randomise(made.parts.model, seed=4)
    made.initial = made.parts.model.adapter.snapshot()
    return made


def train(made: Experiment, groups: frozenset[str] = ALL, device: int = 0) -> Update:
    return made.trainer.train(Job(made.initial), made.parts.train, made.parts.held[device], 1, device, groups)


def group_of(name: str) -> str:
    return name.partition(".")[0]


@every_subset
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_not_trained_keeps_its_bits(optimizer: str, groups: frozenset[str], tiny_models: dict[str, Path]) -> None:
    """Weight decay, momentum and dropout are on: none of them may reach what is not trained."""
    keys = {"optimizer": optimizer, "weight_decay": 0.1, "dropout": True, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    for folder in tiny_models.values():
        made = experiment(folder, training=keys, adapter={"dropout": 0.2})
        before, after = named_tensors(made.initial), named_tensors(train(made, groups))
        for name, tensor in after.items():
            assert torch.equal(tensor, before[name]) == (group_of(name) not in groups), name


@every_subset
def test_no_gradient_is_made_of_what_is_not_trained(groups: frozenset[str], tiny_bert: Path) -> None:
    made = experiment(tiny_bert)
    train(made, groups)
    adapter = lora_of(made.parts.model)
    pairs = {LORA_A: [a for a, _, _ in adapter.factors.values()], LORA_B: [b for _, b, _ in adapter.factors.values()]}
    for group, parameters in {**pairs, HEAD: list(adapter.head.values())}.items():
        assert parameters
        assert all((parameter.grad is not None) == (group in groups) for parameter in parameters)
        assert all(parameter.requires_grad == (group in groups) for parameter in parameters)


@every_subset
def test_one_step_of_a_group_is_that_step_of_all(groups: frozenset[str], tiny_bert: Path) -> None:
    """A gradient does not depend on what else is trained, so without clipping one step of SGD is the same."""
    made = experiment(tiny_bert, training=SGD)
    whole, some = named_tensors(train(made)), named_tensors(train(made, groups))
    for name, tensor in some.items():
        if group_of(name) in groups:
            torch.testing.assert_close(tensor, whole[name], rtol=1e-5, atol=1e-7)


def test_clipping_is_by_the_norm_of_what_is_trained(tiny_bert: Path) -> None:
    """A step of SGD with rate 0.1 that is clipped to 0.01 is 0.001 long, over the trained group alone."""
    made = experiment(tiny_bert, training={**SGD, "max_grad_norm": 0.01})
    for groups in (frozenset({LORA_B}), ALL):
        before, after = named_tensors(made.initial), named_tensors(train(made, groups))
        length = sum(float((after[name] - before[name]).double().square().sum()) for name in after) ** 0.5
        assert length == pytest.approx(0.001, rel=1e-3)


def test_nothing_is_left_of_the_groups_of_the_device_before(tiny_bert: Path) -> None:
    alone = train(experiment(tiny_bert), device=2)
    made = experiment(tiny_bert)
    for groups in (frozenset({LORA_A}), frozenset({LORA_B, HEAD})):
        train(made, groups)
        assert same_bits(train(made, device=2), alone)


def test_a_frozen_head_stays_out_of_it(tiny_bert: Path) -> None:
    made = experiment(tiny_bert, adapter={"head": "freeze"})
    update = train(made, frozenset({LORA_B, HEAD}))
    assert HEAD not in update.groups
    parameters = made.parts.model.model.named_parameters()
    assert not any(parameter.requires_grad for name, parameter in parameters if "classifier" in name)
    assert all(torch.equal(pair.a, made.initial.factors[name].a) for name, pair in update.factors.items())


@every_subset
def test_an_order_is_answered_with_its_groups(groups: frozenset[str], tiny_bert: Path) -> None:
    """The order holds B alone; the other groups are what the device drew. The reply holds every group that FedAvg sends, and
    those that the order does not name as they were."""
    made = experiment(tiny_bert)
    link = link_of(made)
    (reply,) = link.exchange([Order(1, 0, packed(made.initial.only({LORA_B})), groups)])
    assert reply.packet is not None
    assert same_bits(PlainCodec().decode(reply.packet), train(made, groups))


@pytest.mark.parametrize(("rule", "number", "due"), [
    ("fedavg", 1, {LORA_A, LORA_B, HEAD}),
    ("ffa_lora", 1, {LORA_B, HEAD}),
    ("fedsa_lora", 1, {LORA_A, HEAD}),
    ("rolora", 1, {LORA_B, HEAD}),
    ("rolora", 2, {LORA_A, HEAD}),
    ("local_only", 1, set()),
])  # fmt: skip
def test_a_reply_holds_the_groups_of_its_rule_alone(rule: str, number: int, due: set[str], tiny_bert: Path) -> None:
    made = experiment(tiny_bert, federation={"rule": rule})
    trains = made.rule.traits.trained(number, made.initial.present)
    (reply,) = link_of(made).exchange([Order(number, 0, packed(made.initial), trains)])
    assert reply.packet is not None
    assert {group_of(name) for name in load(reply.packet.payload)} == due


def test_completed_takes_what_the_receiver_holds() -> None:
    """Only whole groups that are missing; what has been sent is left as it is, and without a reference nothing is added."""
    one, other = torch.ones(1), torch.zeros(1)
    sent, own = Update({"a": {"x": one}}, weight=3.0), Update({"a": {"x": other, "y": other}, "b": {"z": other}})
    assert completed(sent, own) == Update({"a": {"x": one}, "b": {"z": other}}, weight=3.0)
    assert completed(sent, None) is sent
    assert completed(own, sent) is own


def test_an_order_that_lacks_what_the_device_does_not_have_is_refused(tiny_bert: Path) -> None:
    made = experiment(tiny_bert)
    link = link_of(made, own=False)
    (reply,) = link.exchange([Order(1, 0, packed(made.initial.only({LORA_B})), ALL)])
    assert reply.packet is None
    assert "lora_A" in str(reply.refusal)
    assert "missing" in str(reply.refusal)
