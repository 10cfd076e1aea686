"""Federations whose packets go through chains: every rule, both directions, error feedback, and methods of personalisation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedfit.aggregation.table import RULES
from fedfit.core.update import named_tensors
from fedfit.experiment.build import Experiment
from fedfit.rounds.memories import parted
from fedfit.settings import TransportSettings
from tests.builders import tiny_experiment, tiny_recipe
from tests.personalization.federation import federation as personal_federation


def made(
    folder: Path, rule: str = "fedavg", rounds: int = 4, training: dict[str, Any] | None = None, **transport: Any
) -> Experiment:
    recipe = tiny_recipe(
        folder,
        federation={"devices": 6, "devices_per_round": 5, "rounds": rounds, "rule": rule},
        training={"local_steps": 2, **(training or {})},
        transport=TransportSettings(**transport),
    )
    return tiny_experiment(recipe, None)


ROUNDED = (("delta", "quantize:8"), ("bf16",))
OTHERS = (
    (("delta", "low_rank:1", "quantize:8", "zstd"), ("quantize:8",)),
    (("delta", "fedobd:0.3"), ("bf16", "zstd")),
)
CASES = [(rule, *ROUNDED) for rule in RULES] + [(rule, *pair) for pair in OTHERS for rule in ("fedavg", "flora", "scaffold")]


@pytest.mark.parametrize(("rule", "uplink", "downlink"), CASES)
def test_every_rule_goes_on_with_rounded_packets(
    rule: str, uplink: tuple[str, ...], downlink: tuple[str, ...], tiny_bert: Path
) -> None:
    """Nothing is refused, and less travels; bytes of groups that must be exact stay."""
    plain, coded = made(tiny_bert, rule), made(tiny_bert, rule, uplink=uplink, downlink=downlink)
    for one, other in zip(plain.run(), coded.run(), strict=True):
        assert [line.refused for line in other.devices] == [line.refused for line in one.devices]
        if one.record.uplink_bytes and rule != "local_only":
            assert other.record.uplink_bytes < one.record.uplink_bytes


@pytest.mark.parametrize("uplink", [("delta",), ("top_k:1",), ("delta", "top_k:1")])
def test_a_chain_without_loss_changes_nothing_but_float_roundings(uplink: tuple[str, ...], tiny_bert: Path) -> None:
    """By SGD: AdamW's steps would make as much of a rounding as of a gradient where that is near zero."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.3}
    for one, other in zip(made(tiny_bert, training=sgd).run(), made(tiny_bert, training=sgd, uplink=uplink).run(), strict=True):
        for name, tensor in named_tensors(one.state.adapter).items():
            torch.testing.assert_close(named_tensors(other.state.adapter)[name], tensor, rtol=1e-4, atol=1e-5)


def test_differences_are_from_what_the_device_received(tiny_bert: Path) -> None:
    """With a downlink of two bits the device starts far from what the server has; of eight bits of a small difference the
    server sees the device's adapter all the same.
    """
    experiment = made(tiny_bert, uplink=("delta", "quantize:8"), downlink=("quantize:2",), rounds=1)
    replies = {}
    inner = experiment.trainer.train

    def keep(job: Any, samples: Any, indices: Any, number: int, device: int, *rest: Any) -> Any:
        replies[device] = inner(job, samples, indices, number, device, *rest)
        return replies[device]

    experiment.trainer.train = keep  # type: ignore[method-assign, assignment]
    *_, last = experiment.run()
    weights = {device: update.weight for device, update in replies.items()}
    for name, tensor in named_tensors(last.state.adapter).items():
        mean = sum(w * named_tensors(replies[d])[name] for d, w in weights.items()) / sum(weights.values())
        assert float((tensor - mean).abs().max()) < 2e-3, name


def test_error_feedback_is_each_devices_own_and_is_kept(tiny_bert: Path) -> None:
    experiment = made(tiny_bert, uplink=("delta", "top_k:0.05"), error_feedback=True, rounds=6)
    errors: dict[int, torch.Tensor] = {}
    for result in experiment.run():
        for line in result.devices:
            kept = parted(experiment.parts.memories.read(line.device, result.record.round + 1))
            assert kept.codec is not None
            error = torch.cat([t.reshape(-1) for name, t in kept.codec.tensors.items() if name.startswith("error ")])
            assert float(error.norm()) > 0
            assert line.device not in errors or not torch.equal(error, errors[line.device])
            errors[line.device] = error
    assert len(errors) == 6


def test_rolora_goes_on_with_the_error_of_two_rounds_ago(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A and B are sent in turn; each has its error, and each its factors of low rank, when it is sent again."""
    experiment = made(tiny_bert, "rolora", uplink=("delta", "low_rank:1", "quantize:4"), error_feedback=True)
    list(experiment.run())
    assert "starts anew" not in caplog.text
    kept = parted(experiment.parts.memories.read(0, 5)).codec
    assert kept is not None
    for group in ("lora_A", "lora_B"):
        assert any(name.startswith(f"error {group}.") for name in kept.tensors), group
    assert len([name for name in kept.tensors if name.startswith("stage ")]) == 2


def test_error_feedback_learns_what_top_k_alone_loses(tiny_bert: Path) -> None:
    """Fifteen rounds of one percent: with feedback the training loss falls further."""
    last = {}
    for feedback in (False, True):
        experiment = made(tiny_bert, rounds=15, uplink=("delta", "top_k:0.01"), error_feedback=feedback)
        *_, final = experiment.run()
        last[feedback] = final.record.metrics["test_loss"].value
    assert last[True] < last[False]


@pytest.mark.parametrize("method", ["fdlora", "ditto", "fedalt", "feddpa", "fedper", "pftt"])
def test_methods_of_personalisation_go_on_with_them(method: str, tiny_bert: Path) -> None:
    """What the method and the codec keep lies side by side in a device's memory."""
    transport = TransportSettings(("delta", "quantize:4"), ("bf16",), error_feedback=True)
    experiment = personal_federation(tiny_bert, method, adapter={"layers": "last:2"}, transport=transport)
    results = list(experiment.run())
    assert all(line.refused is None for result in results for line in result.devices)
    kept = parted(experiment.parts.memories.read(0, 7))
    assert kept.codec is not None
    assert kept.own is not None
    assert {score.device for score in results[-1].scores} == {0, 1, 2, 3}
