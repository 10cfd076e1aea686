"""Which parts a device trains: the rest keeps its bits, costs no gradient, and does not come back."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fedfit.aggregation.base import named_tensors
from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.records import PARTS, Order, Task, Update
from fedfit.simulation.run import Simulation
from tests.builders import link_of, randomise, same_bits, tiny_recipe, tiny_simulation

CODEC = SafetensorsCodec()
SUBSETS = [frozenset(some) for count in (1, 2, 3) for some in combinations(sorted(PARTS), count)]
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_steps": 1}

every_subset = pytest.mark.parametrize("parts", SUBSETS, ids=lambda parts: "+".join(sorted(parts)))


def simulation(folder: Path, **sections: Any) -> Simulation:
    made = tiny_simulation(tiny_recipe(folder, **sections), cache=None)
    randomise(made.model, seed=4)
    made.initial = made.model.adapter.snapshot()
    return made


def train(made: Simulation, parts: frozenset[str] = PARTS, device: int = 0) -> Update:
    return made.client.train(Task(made.initial), made.train, made.parts[device], 1, device, parts)


def part_of(name: str) -> str:
    return "head" if name.startswith("head ") else name[-1].lower()


@every_subset
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_not_trained_keeps_its_bits(optimizer: str, parts: frozenset[str], tiny_models: dict[str, Path]) -> None:
    """Weight decay, momentum and dropout are on: none of them may reach what is not trained."""
    keys = {"optimizer": optimizer, "weight_decay": 0.1, "dropout": True, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    for folder in tiny_models.values():
        made = simulation(folder, training=keys, adapter={"dropout": 0.2})
        before, after = named_tensors(made.initial), named_tensors(train(made, parts))
        for name, tensor in after.items():
            assert torch.equal(tensor, before[name]) == (part_of(name) not in parts), name


@every_subset
def test_no_gradient_is_made_of_what_is_not_trained(parts: frozenset[str], tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    train(made, parts)
    adapter = made.model.adapter
    groups = {"a": [a for a, _, _ in adapter.factors.values()], "b": [b for _, b, _ in adapter.factors.values()]}
    for part, parameters in {**groups, "head": list(adapter.head.values())}.items():
        assert parameters
        assert all((parameter.grad is not None) == (part in parts) for parameter in parameters)
        assert all(parameter.requires_grad == (part in parts) for parameter in parameters)


@every_subset
def test_one_step_of_a_part_is_that_step_of_all(parts: frozenset[str], tiny_bert: Path) -> None:
    """A gradient does not depend on what else is trained, so without clipping one step of SGD is the same."""
    made = simulation(tiny_bert, training=SGD)
    whole, some = named_tensors(train(made)), named_tensors(train(made, parts))
    for name, tensor in some.items():
        if part_of(name) in parts:
            torch.testing.assert_close(tensor, whole[name], rtol=1e-5, atol=1e-7)


def test_clipping_is_by_the_norm_of_what_is_trained(tiny_bert: Path) -> None:
    """A step of SGD with rate 0.1 that is clipped to 0.01 is 0.001 long, over the trained part alone."""
    made = simulation(tiny_bert, training={**SGD, "max_grad_norm": 0.01})
    for parts in (frozenset("b"), PARTS):
        before, after = named_tensors(made.initial), named_tensors(train(made, parts))
        length = sum(float((after[name] - before[name]).double().square().sum()) for name in after) ** 0.5
        assert length == pytest.approx(0.001, rel=1e-3)


def test_nothing_is_left_of_the_parts_of_the_device_before(tiny_bert: Path) -> None:
    alone = train(simulation(tiny_bert), device=2)
    made = simulation(tiny_bert)
    for parts in (frozenset("a"), frozenset({"b", "head"})):
        train(made, parts)
        assert same_bits(train(made, device=2), alone)


def test_a_frozen_head_stays_out_of_it(tiny_bert: Path) -> None:
    made = simulation(tiny_bert, adapter={"head": "freeze"})
    update = train(made, frozenset({"b", "head"}))
    assert update.head == {}
    assert not any(parameter.requires_grad for name, parameter in made.model.model.named_parameters() if "classifier" in name)
    assert all(torch.equal(pair.a, made.initial.factors[name].a) for name, pair in update.factors.items())


@every_subset
def test_an_order_is_answered_with_its_parts(parts: frozenset[str], tiny_bert: Path) -> None:
    """The order holds B alone; what is not there is what the device drew. The reply holds what was trained."""
    made = simulation(tiny_bert)
    link = link_of(made)
    order = Order(1, 0, CODEC.encode(made.initial, frozenset("b")), parts)
    (reply,) = link.exchange([order])
    assert reply.packet is not None
    found = {
        part for part, word in (("a", ".lora_A"), ("b", ".lora_B")) if any(word in name for name in load(reply.packet.payload))
    }
    found |= {"head"} if any(name.startswith("head.") for name in load(reply.packet.payload)) else set()
    assert found == parts
    assert same_bits(CODEC.decode(reply.packet, made.initial), train(made, parts))


def test_an_order_that_lacks_what_the_device_does_not_have_is_refused(tiny_bert: Path) -> None:
    made = simulation(tiny_bert)
    link = link_of(made, own=False)
    (reply,) = link.exchange([Order(1, 0, CODEC.encode(made.initial, frozenset("b")))])
    assert reply.packet is None
    assert "alone" in str(reply.refusal)
