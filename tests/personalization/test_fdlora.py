"""FDLoRA against a slow twin: plain trainings, plain means, and Nesterov by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedfit.core.update import Job, Update, named_tensors, with_tensors
from fedfit.personalization.fusion import fuse
from fedfit.rounds.trainer import Part
from tests.aggregation.watching import record
from tests.personalization.federation import FEW_SHOT, TESTS, TRAINING, federation, mean, own_of, same

FIRST = Part(("first stage",))


@pytest.mark.parametrize(("every", "copies"), [(2, (3, 5)), (1, (2, 3, 4, 5, 6)), (0, ())])
def test_a_federation_is_its_slow_twin(every: int, copies: tuple[int, ...], tiny_bert: Path) -> None:
    """Six rounds: the first stage, then five of the second, with copies when H divides the number of the latter."""
    keys = {"synchronise_every": every, "outer_learning_rate": 0.8, "outer_momentum": 0.5}
    made, twin = federation(tiny_bert, "fdlora", keys), federation(tiny_bert, "fdlora", keys)
    personal: list[Update] = []
    momentum: dict[str, Tensor] = {}
    before = made.initial
    for result in made.run():
        number, after = result.record.round, result.state.adapter
        if number == 0:
            continue
        if number == 1:
            personal = [train(twin, before, 1, device, FIRST) for device in range(4)]
            expected = mean(personal)
        else:
            shared = [train(twin, before, number, device) for device in range(4)]
            old = {name: tensor.double() for name, tensor in named_tensors(before).items()}
            gradient = {name: old[name] - tensor for name, tensor in mean(shared).items()}
            momentum = {name: 0.5 * momentum.get(name, 0.0) + g for name, g in gradient.items()}
            expected = {name: old[name] - 0.8 * (0.5 * momentum[name] + gradient[name]) for name in old}
            if number in copies:
                personal = shared
        for name, tensor in named_tensors(after).items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert all(same(own_of(made, device, number), adapter) for device, adapter in enumerate(personal)), number
        before = after


def train(made: object, adapter: Update, number: int, device: int, part: Part = Part()) -> Update:  # noqa: B008 - frozen
    trainer, samples = made.trainer, made.parts.train  # type: ignore[attr-defined]
    update: Update = trainer.train(Job(adapter), samples, TRAINING[device], number, device, None, part)
    return update


def test_the_first_personal_adapter_is_used(tiny_bert: Path) -> None:
    """A public implementation copies the shared adapter over it in round 0. Here it is measured, and fused, up to round 5."""
    made = federation(tiny_bert, "fdlora")
    losses, kept = [], []
    for result in made.run():
        (score,) = (score for score in result.scores if score.device == 3)
        losses.append(score.metrics["personal_loss"].value)
        kept.append(own_of(made, 3, result.record.round).tensors if result.record.round else {})
    assert len(set(losses[1:6])) == 1
    assert all(torch.equal(tensor, kept[5][name]) for name, tensor in kept[1].items())
    assert losses[6] != losses[5], "round 6 is the fifth of the second stage, and copies the shared one"


@pytest.mark.parametrize("fusion", ["factors", "products"])
def test_the_fused_model_is_no_worse_on_the_few_shot_part(fusion: str, tiny_bert: Path) -> None:
    """Its loss there, measured anew, and what the record says of its weights."""
    made = federation(tiny_bert, "fdlora", {"fusion": fusion}, federation={"rounds": 3})
    result = list(made.run())[-1]
    for score in result.scores:
        if score.device == 2:
            assert score.facts == {"not_fused": "too few samples for a few-shot part"}
            assert score.metrics["fused_loss"].value == score.metrics["shared_loss"].value
            continue
        own = own_of(made, score.device, 3)
        personal, shared = with_tensors(made.initial, own.tensors), result.state.adapter
        weights = (float(score.facts["weight_personal"]), float(score.facts["weight_shared"]))
        fused = fuse(personal, shared, weights, products=fusion == "products")
        rows = FEW_SHOT[score.device]
        losses = [made.trainer.loss(Job(update), made.parts.train, rows) for update in (personal, shared, fused)]
        assert losses[2] <= min(losses[:2])
        assert 3 <= int(score.facts["evaluations"]) <= 40
        tested = made.trainer.loss(Job(fused), made.parts.train, TESTS[score.device])
        assert score.metrics["fused_loss"].value == pytest.approx(tested, rel=1e-5)


def test_only_round_1_sends_the_personal_adapter(tiny_bert: Path) -> None:
    """Every packet is read: from round 2 on none holds a tensor of a personal adapter."""
    from safetensors.torch import load

    made = federation(tiny_bert, "fdlora", {"synchronise_every": 0})
    codec = record(made)
    results = list(made.run())
    personal = [own_of(made, device, 6).tensors for device in range(4)]
    sent = [load(packet.payload) for packet in codec.packets]
    assert len(sent) == 2 * 4 * 6
    found = [
        number
        for number, tensors in enumerate(sent)
        if any(torch.equal(tensor, own[name]) for own in personal for name, tensor in tensors.items())
    ]
    assert found == [1, 3, 5, 7], "the replies of round 1"
    assert sum(packet.size_bytes for packet in codec.packets) == sum(
        result.record.uplink_bytes + result.record.downlink_bytes for result in results
    )


def test_a_device_that_joins_late_starts_from_the_shared_adapter(tiny_bert: Path) -> None:
    """Two devices of four take part in a round: whoever comes first in a later one trains twice in it."""
    made, twin = federation(tiny_bert, "fdlora", federation={"devices_per_round": 2}), federation(tiny_bert, "fdlora")
    before, seen, late = made.initial, set[int](), 0
    for result in made.run():
        for line in result.devices:
            first = line.device not in seen
            assert line.steps == (4 if first and line.round > 1 else 2)
            if first and line.round > 1:
                expected = train(twin, before, line.round, line.device, FIRST)
                assert same(own_of(made, line.device, line.round), expected)
                late += 1
            seen.add(line.device)
        for score in result.scores:
            if score.device not in seen:
                assert score.facts == {"not_fused": "the device has not taken part yet"}
                assert score.metrics["personal_loss"] == score.metrics["shared_loss"]
        before = result.state.adapter
    assert late


def test_a_missed_copy_is_made_in_the_next_round(tiny_bert: Path) -> None:
    """H = 2: the copies of rounds 3 and 5 belong to the rounds of a device that passes them."""
    made = federation(tiny_bert, "fdlora", {"synchronise_every": 2}, federation={"devices_per_round": 2, "rounds": 12})
    last: dict[int, int] = {}
    kept: dict[int, dict[str, Tensor]] = {}
    copies = missed = 0
    for result in made.run():
        for line in result.devices:
            own = own_of(made, line.device, line.round)
            if line.device in last:
                due = (line.round - 1) // 2 > (last[line.device] - 1) // 2
                changed = any(not torch.equal(kept[line.device][name], tensor) for name, tensor in own.tensors.items())
                assert changed == due, line.round
                copies, missed = copies + due, missed + (due and line.round % 2 == 0)
            last[line.device], kept[line.device] = line.round, dict(own.tensors)
    assert copies > 2
    assert missed


def test_a_loss_that_is_not_finite_falls_back(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = federation(tiny_bert, "fdlora", federation={"rounds": 2})
    monkeypatch.setattr(made.trainer, "loss", lambda *of: math.inf)
    result = list(made.run())[-1]
    for score in result.scores:
        assert "not_fused" in score.facts
        assert score.metrics["fused_loss"] == score.metrics["shared_loss"]


def test_without_fusion_there_is_no_fused_model(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "fdlora", {"fusion": "none"}, federation={"rounds": 1})
    result = list(made.run())[-1]
    names = {name.partition("_")[0] for score in result.scores for name in score.metrics}
    assert names == {"shared", "personal"}


def test_the_summaries_reach_the_record(tiny_bert: Path) -> None:
    record = list(federation(tiny_bert, "fdlora", federation={"rounds": 1}).run())[-1].record
    for model in ("shared", "personal", "fused"):
        for what in ("mean", "worst", "p10", "spread"):
            assert f"{model}_accuracy_{what}" in record.metrics
    assert "test_accuracy" in record.metrics, "the global model is measured as well"
