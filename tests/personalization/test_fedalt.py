"""FedALT against a slow twin that keeps every device's adapter, and takes the mean of the others by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from fedfit.core.update import GATE, PAIRS, Factors, Job, Update, named_tensors
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline
from tests.aggregation.watching import record
from tests.personalization.federation import TRAINING, federation, mean, own_of

ALL = PAIRS | {"head", GATE}


@pytest.mark.parametrize("a_round", [4, 2])
def test_a_federation_is_its_slow_twin(a_round: int, tiny_bert: Path) -> None:
    """The others of a device are those whose adapters the last round brought, without its own, if that was among them.

    By SGD: AdamW's steps would make as much of a rounding as of a gradient where that is near zero.
    """
    sgd = {"optimizer": "sgd", "learning_rate": 0.3}
    keys: dict[str, Any] = {"federation": {"devices_per_round": a_round}, "training": sgd}
    made, twin = (federation(tiny_bert, "fedalt", **keys) for _ in range(2))
    zero = {name: torch.zeros(2, pair.a.shape[1]) for name, pair in twin.initial.factors.items()}
    own: dict[int, Update] = {}
    sent: dict[int, Update] = {}
    shared = twin.initial
    for result in made.run():
        number, devices = result.record.round, [line.device for line in result.devices]
        now: dict[int, Update] = {}
        for device in devices:
            start = own.get(device, shared.with_groups({GATE: zero}))
            job = Job(start, beside=others_of(device, sent, shared))
            own[device] = twin.trainer.train(job, twin.parts.train, TRAINING[device], number, device, ALL)
            now[device] = own[device].without({GATE})
        if number:
            sent, expected = now, mean(list(now.values()))
            for name, tensor in named_tensors(result.state.adapter).items():
                torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-5)
            shared = result.state.adapter
        for device in devices:
            kept = own_of(made, device, number).tensors
            for name, tensor in named_tensors(own[device]).items():
                torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-5)
    assert max(float(tensor.abs().max()) for tensor in own[0].groups[GATE].values()) > 0, "the gates learn"


def others_of(device: int, sent: dict[int, Update], shared: Update) -> dict[str, Factors]:
    rest = [update for number, update in sent.items() if number != device]
    if not sent:
        return dict(shared.factors)
    if not rest:
        return {n: Factors(torch.zeros_like(p.a), torch.zeros_like(p.b), p.scale) for n, p in shared.factors.items()}
    named = mean(rest)
    return {
        name: Factors(named[f"lora_A.{name}"].float(), named[f"lora_B.{name}"].float(), pair.scale)
        for name, pair in shared.factors.items()
    }


def test_the_gate_is_in_no_packet(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "fedalt")
    codec = record(made)
    results = list(made.run())
    assert len(codec.packets) == 2 * 4 * 6
    assert all(load(packet.payload).keys() == named_tensors(made.initial).keys() for packet in codec.packets)
    assert all(line.refused is None for result in results for line in result.devices)
    assert {name.partition("_")[0] for score in results[-1].scores for name in score.metrics} == {"personal"}


def test_a_device_alone_in_a_round_has_no_others(tiny_bert: Path) -> None:
    made = federation(tiny_bert, "fedalt", federation={"devices_per_round": 1, "rounds": 8})
    assert all(line.refused is None for result in made.run() for line in result.devices)


@pytest.mark.parametrize(
    ("override", "key"), [("federation.rule=hetlora", "federation.rule"), ("plan.policy=joint", "plan.policy")]
)
def test_faults(override: str, key: str) -> None:
    recipe = parse_recipe("", ["personalization.method=fedalt", "evaluation.device_test_share=0.2", override])
    assert key in {fault.key for fault in validate_offline(recipe)}
