"""``training.proximal``: FedProx's term, against the explicit loss and autograd."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from fedfit.core.update import HEAD, LORA_A, LORA_B, Job, Update, named_tensors
from fedfit.data.batches import training_batches
from fedfit.experiment.build import Experiment
from fedfit.randomness import derive_seed
from fedfit.rounds import trainer
from fedfit.rounds.optimizers import add_pull
from tests.builders import randomise, same_bits, tiny_experiment, tiny_recipe

ALL = frozenset({LORA_A, LORA_B, HEAD})

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_steps": 6}


def experiment(folder: Path, **training: Any) -> Experiment:
    made = tiny_experiment(tiny_recipe(folder, training={**SGD, **training}), cache=None)
    randomise(made.parts.model, seed=4)
    made.initial = made.parts.model.adapter.snapshot()
    return made


def train(made: Experiment, groups: frozenset[str] = ALL) -> Update:
    return made.trainer.train(Job(made.initial), made.parts.train, made.parts.held[0], 1, 0, groups)


def slow_twin(made: Experiment, groups: frozenset[str] = ALL) -> tuple[Update, float, float]:
    """The loss as it is written, differentiated as a whole: the update, the mean cross-entropy, and the norm of the
    cross-entropy's own gradient where it was largest."""
    settings, model, indices = made.recipe.training, made.parts.model, made.parts.held[0]
    model.adapter.load(Job(made.initial))
    parameters = model.adapter.train_only(groups)
    received = [parameter.detach().clone() for parameter in parameters]
    kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.AdamW
    optimizer = kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    seed = derive_seed(made.recipe.seed, "batches", 1, 0)
    total, seen, steepest = 0.0, 0, 0.0
    for batch in training_batches(made.parts.train.lengths[indices], settings.batch_size, 1, settings.local_steps, seed):
        states = made.parts.trunk.batch(made.parts.train, indices[batch])
        labels = torch.from_numpy(made.parts.train.classes[indices[batch]])
        entropy = functional.cross_entropy(model.tail(states), labels)
        distance = sum(((now - before) ** 2).sum() for now, before in zip(parameters, received, strict=True))
        slopes = torch.autograd.grad(entropy, parameters, retain_graph=True)
        steepest = max(steepest, float(sum(slope.square().sum() for slope in slopes)) ** 0.5)
        optimizer.zero_grad()
        torch.autograd.backward(entropy + settings.proximal / 2 * distance)
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        total, seen = total + entropy.item() * len(batch), seen + len(batch)
    return model.adapter.snapshot(), total / seen, steepest


def distance(left: Update, right: Update) -> float:
    pairs = zip(named_tensors(left).values(), named_tensors(right).values(), strict=True)
    return math.sqrt(sum(float((mine - other).double().square().sum()) for mine, other in pairs))


@pytest.mark.parametrize(
    "groups", [ALL, frozenset({LORA_B, HEAD}), frozenset({LORA_A})], ids=lambda groups: "+".join(sorted(groups))
)
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"max_grad_norm": 0.3},  # the norm of the whole gradient: clipping includes the term
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"weight_decay": 0.3},
    ],
    ids=str,
)
def test_it_is_the_explicit_loss(training: dict[str, Any], groups: frozenset[str], tiny_bert: Path) -> None:
    made = experiment(tiny_bert, proximal=5.0, **training)
    expected, entropy, _ = slow_twin(made, groups)
    update = train(made, groups)
    moved = distance(expected, made.initial)
    assert distance(update, expected) < 1e-4 * moved
    assert update.facts["train_loss"] == pytest.approx(entropy, rel=1e-5), "the loss on record is the cross-entropy alone"
    # The term is felt: without it the device ends elsewhere.
    plain = train(experiment(tiny_bert, **training), groups)
    assert distance(plain, expected) > 0.05 * moved


@pytest.mark.parametrize("strength", [1.0, 3.0, 10.0])
def test_the_stronger_the_nearer(strength: float, tiny_bert: Path) -> None:
    """SGD with ηµ ≤ 1: the way from what was received is d' = (1 − ηµ)·d − η·g, so ‖d‖ never exceeds max‖g‖/µ."""
    made = experiment(tiny_bert, proximal=strength, local_steps=60)
    _, _, steepest = slow_twin(made)
    near, free = train(made), train(experiment(tiny_bert, local_steps=60))
    assert 0 < distance(near, made.initial) <= steepest / strength * (1 + 1e-4)
    assert distance(near, made.initial) < distance(free, made.initial)


def test_the_first_step_feels_nothing(tiny_bert: Path) -> None:
    strong, plain = experiment(tiny_bert, proximal=1e3, local_steps=1), experiment(tiny_bert, local_steps=1)
    assert same_bits(train(strong), train(plain))


@pytest.mark.parametrize("max_grad_norm", [0.0, 100.0])
def test_with_scaled_gradients_it_is_as_strong(max_grad_norm: float, tiny_bert: Path) -> None:
    """The scale of fp16 is 65536 at first: a term added to gradients that still carry it would be next to nothing."""
    keys = {"proximal": 10.0, "local_steps": 30, "max_grad_norm": max_grad_norm}
    plain, scaled = experiment(tiny_bert, **keys), experiment(tiny_bert, precision="fp16", **keys)
    far, near = distance(train(experiment(tiny_bert, local_steps=30)), plain.initial), distance(train(scaled), scaled.initial)
    assert near == pytest.approx(distance(train(plain), plain.initial), rel=0.1)
    assert near < far / 2


def test_without_it_nothing_is_kept_and_nothing_added(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("nothing is to be added")

    with_key = train(experiment(tiny_bert, proximal=0.0))
    monkeypatch.setattr(trainer, "add_pull", never)
    assert same_bits(train(experiment(tiny_bert)), with_key)


def test_by_hand() -> None:
    """θ = 3 was received as 1: 4·(3 − 1) is added to the gradient 0.5. What has no gradient is left."""
    moved, still = torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([3.0]))
    moved.grad = torch.tensor([0.5])
    add_pull([moved, still], [torch.tensor([1.0]), torch.tensor([1.0])], 4.0)
    assert moved.grad.tolist() == [8.5]
    assert still.grad is None
    with pytest.raises(ValueError, match="shorter"):
        add_pull([moved], [], 4.0)
