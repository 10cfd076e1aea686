"""FedDPA: the rounds are FedAvg's, the personal adapter follows a slow twin beside the received one, and nothing is sent."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fedfit.core.update import Job, Likeness, named_tensors
from fedfit.rounds.local import LocalRound
from fedfit.rounds.trainer import Part
from fedfit.settings import PersonalizationSettings
from tests.aggregation.watching import record
from tests.builders import tiny_experiment
from tests.personalization.federation import FEW_SHOT, TESTS, TRAINING, federation, own_of, same

LEARNING = ["iterative", "sequential"]


@pytest.mark.parametrize("learning", LEARNING)
def test_the_shared_rounds_are_those_without_it(learning: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, "feddpa", {"learning": learning})
    plain = tiny_experiment(
        replace(made.recipe, personalization=PersonalizationSettings()), None, 66, TRAINING, TESTS, FEW_SHOT
    )
    codec = record(made)
    for one, other in zip(made.run(), plain.run(), strict=True):
        for name, tensor in named_tensors(one.state.adapter).items():
            assert torch.equal(tensor, named_tensors(other.state.adapter)[name])
        assert one.record.uplink_bytes == other.record.uplink_bytes
        assert {line.steps for line in one.devices} <= {4 if learning == "iterative" else 2}
    assert all(load(packet.payload).keys() == named_tensors(made.initial).keys() for packet in codec.packets)


def test_the_personal_adapter_is_its_slow_twin(tiny_bert: Path) -> None:
    """From the first received adapter on, beside the one received in the round, at a share of 0.3."""
    keys = {"training_share": 0.3, "steps": 3}
    made, twin = federation(tiny_bert, "feddpa", keys), federation(tiny_bert, "feddpa")
    before, personal = made.initial, [made.initial] * 4
    for result in made.run():
        number = result.record.round
        if number == 0:
            continue
        part = Part(("personal",), 3)
        personal = [
            twin.trainer.train(
                Job(own, beside=before.factors, shares=(0.3, 0.7)),
                twin.parts.train,
                TRAINING[device],
                number,
                device,
                None,
                part,
            )
            for device, own in enumerate(personal)
        ]
        assert all(same(own_of(made, device, number), own) for device, own in enumerate(personal))
        before = result.state.adapter


@pytest.mark.parametrize("learning", LEARNING)
def test_what_is_measured_is_the_mixture(learning: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, "feddpa", {"learning": learning, "most": 0.8, "references": 2})
    last = list(made.run())[-1]
    policy = made.federation.evaluator
    shared = Job(last.state.adapter)
    for device in range(4):
        models = policy.models_of(device, shared, 6)  # type: ignore[attr-defined]
        job = models.jobs["personal"]
        if learning == "iterative":
            assert same(own_of(made, device, 6), job.update)
        else:
            tuned = made.trainer.train(shared, made.parts.train, TRAINING[device], 6, device, None, Part(("personal",)))
            assert all(torch.equal(t, named_tensors(tuned)[name]) for name, t in named_tensors(job.update).items())
        assert all(torch.equal(pair.a, shared.update.factors[name].a) for name, pair in job.beside.items())
        assert isinstance(job.shares, Likeness)
        assert job.shares.most == 0.8
        assert job.shares.references.shape == (2, made.parts.model.hidden_size)
    assert {name.partition("_")[0] for score in last.scores for name in score.metrics} == {"shared", "personal"}


def test_references_are_the_devices_own_and_stay_the_same(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "feddpa")
    model, samples = made.parts.model, made.parts.train

    def drawn(round_number: int, device: int, count: int) -> torch.Tensor:
        local = LocalRound(made.trainer, samples, TRAINING[device], round_number, device)
        return local.references(count)

    assert torch.equal(drawn(1, 0, 3), drawn(5, 0, 3))
    assert len(drawn(1, 2, 50)) == len(TRAINING[2]), "all of them, where there are fewer"
    own = [model.trunk(torch.from_numpy(samples.ids_of(int(row))).long()[None], None)[0].mean(dim=0) for row in TRAINING[1]]
    for reference in drawn(1, 1, 4):
        assert min(float((reference - state).abs().max()) for state in own) < 1e-5
    assert not np.array_equal(drawn(1, 1, 4), drawn(1, 3, 4))
