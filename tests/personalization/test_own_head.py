"""FedPer and FedRep: the head stays at home, in packets and in the mean."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from fedfit.core.update import HEAD, PAIRS, Job, Update, named_tensors
from fedfit.rounds.trainer import Part
from tests.aggregation.watching import record
from tests.personalization.federation import TRAINING, federation, mean, own_of

METHODS = ["fedper", "fedrep"]


@pytest.mark.parametrize("method", METHODS)
def test_a_federation_is_its_slow_twin(method: str, tiny_bert: Path) -> None:
    made, twin = federation(tiny_bert, method, federation={"weighting": "uniform"}), federation(tiny_bert, method)
    before, heads = made.initial, [made.initial.groups[HEAD]] * 4
    for result in made.run():
        number = result.record.round
        if number == 0:
            continue
        trained = [
            (one_by_one if method == "fedrep" else together)(twin, before.with_groups({HEAD: head}), number, device)
            for device, head in enumerate(heads)
        ]
        heads = [update.groups[HEAD] for update in trained]
        after, expected = named_tensors(result.state.adapter), mean(trained)
        for name, tensor in after.items():
            if name.startswith(HEAD):
                assert torch.equal(tensor, named_tensors(made.initial)[name]), "the server's head is the first one"
            else:
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-7)
        for device, head in enumerate(heads):
            kept = own_of(made, device, number).tensors
            assert kept.keys() == head.keys()
            assert all(torch.equal(kept[name], tensor) for name, tensor in head.items())
        assert not torch.equal(heads[0]["classifier.weight"], heads[1]["classifier.weight"])
        before = result.state.adapter


def together(made: object, adapter: Update, number: int, device: int) -> Update:
    return train(made, adapter, number, device, None, Part())


def one_by_one(made: object, adapter: Update, number: int, device: int) -> Update:
    headed = train(made, adapter, number, device, frozenset({HEAD}), Part(("head",)))
    assert all(torch.equal(t, named_tensors(adapter)[n]) for n, t in named_tensors(headed).items() if not n.startswith(HEAD))
    return train(made, headed, number, device, PAIRS, Part())


def train(made: object, adapter: Update, number: int, device: int, groups: frozenset[str] | None, part: Part) -> Update:
    trainer, samples = made.trainer, made.parts.train  # type: ignore[attr-defined]
    update: Update = trainer.train(Job(adapter), samples, TRAINING[device], number, device, groups, part)
    return update


@pytest.mark.parametrize("method", METHODS)
def test_the_head_is_in_no_packet(method: str, tiny_bert: Path) -> None:
    made = federation(tiny_bert, method)
    codec = record(made)
    results = list(made.run())
    assert len(codec.packets) == 2 * 4 * 6
    wanted = {name for name in named_tensors(made.initial) if not name.startswith(HEAD)}
    assert all(load(packet.payload).keys() == wanted for packet in codec.packets)
    assert {name.partition("_")[0] for score in results[-1].scores for name in score.metrics} == {"personal"}
    assert not any(name.startswith("test_") for name in results[-1].record.metrics), "there is no global model"
