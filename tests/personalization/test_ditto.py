"""Ditto: the rounds are FedAvg's, and the personal adapter follows a slow twin with the pull written out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfit.core.personal import Pull
from fedfit.core.update import Job, Update, named_tensors, with_tensors
from fedfit.rounds.trainer import Part
from fedfit.settings import PersonalizationSettings
from tests.builders import tiny_experiment
from tests.personalization.federation import FEW_SHOT, TESTS, TRAINING, federation, own_of, same


def test_the_shared_rounds_are_those_without_it(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "ditto")
    plain = tiny_experiment(
        replace(made.recipe, personalization=PersonalizationSettings()), None, 66, TRAINING, TESTS, FEW_SHOT
    )
    for one, other in zip(made.run(), plain.run(), strict=True):
        for name, tensor in named_tensors(one.state.adapter).items():
            assert torch.equal(tensor, named_tensors(other.state.adapter)[name])
        assert one.record.uplink_bytes == other.record.uplink_bytes
        assert all(line.steps == 4 for line in one.devices), "two of the shared adapter, two of its own"


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_the_personal_adapter_is_its_slow_twin(strength: float, tiny_bert: Path) -> None:
    """From the first received adapter on; the anchor is the one received in the round."""
    made, twin = federation(tiny_bert, "ditto", {"strength": strength}), federation(tiny_bert, "ditto")
    before, personal = made.initial, [made.initial] * 4
    for result in made.run():
        number = result.record.round
        if number == 0:
            continue
        part = Part(("personal",), None, Pull(before, strength))
        personal = [
            twin.trainer.train(Job(own), twin.parts.train, TRAINING[device], number, device, None, part)
            for device, own in enumerate(personal)
        ]
        assert all(same(own_of(made, device, number), own) for device, own in enumerate(personal))
        before = result.state.adapter


def test_the_pull_is_that_of_the_formula(tiny_bert: Path) -> None:
    """One step of SGD: ``θ − η(g + λ(θ − anchor))`` against the step without a pull, ``θ − η·g``."""
    training = {"optimizer": "sgd", "weight_decay": 0.0, "learning_rate": 0.1, "max_grad_norm": 0.0}
    made = federation(tiny_bert, "ditto", training=training)
    anchor = with_tensors(made.initial, {name: t + 1.0 for name, t in named_tensors(made.initial).items()})

    def step(part: Part) -> dict[str, torch.Tensor]:
        return named_tensors(made.trainer.train(Job(made.initial), made.parts.train, TRAINING[0], 1, 0, None, part))

    free, pulled = step(Part(("x",), 1)), step(Part(("x",), 1, Pull(anchor, 0.7)))
    for name, tensor in free.items():
        torch.testing.assert_close(pulled[name], tensor + 0.1 * 0.7, rtol=1e-5, atol=1e-6)


def test_a_strong_pull_keeps_it_at_the_received_one(tiny_bert: Path) -> None:
    """With η·λ = 1 each step of SGD lands at the anchor, but for the gradient's own step of η."""
    training = {"optimizer": "sgd", "weight_decay": 0.0, "learning_rate": 1e-3}
    gaps = []
    for strength in (0.0, 1000.0):
        made = federation(tiny_bert, "ditto", {"strength": strength}, training=training)
        results = list(made.run())
        own, received = own_of(made, 0, 6).tensors, named_tensors(results[-2].state.adapter)
        gaps.append(sum(float((own[name] - tensor).norm()) for name, tensor in received.items()))
    assert gaps[1] < 0.5 * gaps[0]


def test_steps_of_its_own(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "ditto", {"steps": 5})
    result = list(made.run())[1]
    assert all(line.steps == 2 + 5 for line in result.devices)


def test_it_follows_the_rank_of_the_devices(tiny_bert: Path) -> None:
    """Ranks 1 and 2 in one federation: each device's own adapter has its own rank."""
    ranks = {"rule": "hetlora", "ranks": (1, 2, 1, 2)}
    made = federation(tiny_bert, "ditto", federation={**ranks, "rounds": 2})
    results = list(made.run())
    assert all(line.refused is None for result in results for line in result.devices)
    for device, rank in enumerate((1, 2, 1, 2)):
        pairs: Update = with_tensors(made.initial, own_of(made, device, 2).tensors)
        assert pairs.rank == rank
