"""Devices that join late, return after many rounds, or run out of battery: every method, and FDLoRA against a slow twin."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedfit.core.update import Job, Update, named_tensors
from fedfit.errors import RecipeError
from fedfit.experiment.build import build
from fedfit.experiment.load import parse_recipe
from fedfit.personalization.table import METHODS
from fedfit.rounds.trainer import Part
from tests.personalization.federation import TRAINING, federation, own_of, same
from tests.trajectories.world import World, lines, one_thread_only

LAYERS: dict[str, Any] = {"adapter": {"layers": "last:2"}}
KEEPS_NOTHING = ("fine_tune",)


@pytest.mark.parametrize("method", METHODS)
def test_a_device_that_joins_late_has_a_model_of_its_own_after_one_round(method: str, tiny_bert: Path) -> None:
    """Device 3 joins in the last of six rounds, where all four take part; before it the others come in turn."""
    federated = {"joins": (1, 1, 1, 6), "devices_per_round": 3}
    made = federation(tiny_bert, method, federation=federated, **LAYERS)
    results = list(made.run())
    assert all(line.device != 3 for result in results[:-1] for line in result.devices)
    assert all(line.refused is None for result in results for line in result.devices)
    took_part = {line.device for line in results[-1].devices}
    kept = made.parts.memories.read(3, 7)
    assert (kept is not None) == (3 in took_part and method not in KEEPS_NOTHING)
    assert {score.device for score in results[-1].scores} == {0, 1, 2, 3}


def test_fdlora_on_a_late_device_is_its_slow_twin(tiny_bert: Path) -> None:
    """It joins in round 3: the first stage from the adapter that it receives, which it does not send, then the shared one."""
    keys = {"synchronise_every": 0}
    federated = {"joins": (1, 1, 1, 3)}
    made, twin = (federation(tiny_bert, "fdlora", keys, federation=federated) for _ in range(2))
    before = made.initial
    for result in made.run():
        if result.record.round == 3:
            personal = train(twin, before, 3, 3, Part(("first stage",)))
            assert same(own_of(made, 3, 3), personal)
        elif result.record.round > 3:
            assert same(own_of(made, 3, result.record.round), personal), "without copies it stays as it is"
        before = result.state.adapter


def train(made: object, adapter: Update, number: int, device: int, part: Part) -> Update:
    trainer, samples = made.trainer, made.parts.train  # type: ignore[attr-defined]
    update: Update = trainer.train(Job(adapter), samples, TRAINING[device], number, device, None, part)
    return update


@pytest.mark.parametrize("method", METHODS)
def test_a_device_that_returns_after_many_rounds_finds_its_own(method: str, tiny_bert: Path) -> None:
    """One device a round, over twelve rounds: what each kept is that of its last round, whoever came between."""
    made = federation(tiny_bert, method, federation={"devices_per_round": 1, "rounds": 12}, **LAYERS)
    last: dict[int, dict[str, torch.Tensor]] = {}
    gaps = dict[int, int]()
    for result in made.run():
        for line in result.devices:
            assert line.refused is None
            gaps[line.device] = max(gaps.get(line.device, 0), result.record.round - gaps.get(-1 - line.device, 0))
            gaps[-1 - line.device] = result.record.round
            if method not in KEEPS_NOTHING:
                last[line.device] = dict(own_of(made, line.device, result.record.round).tensors)
    for device, tensors in last.items():
        kept = own_of(made, device, 12).tensors
        assert kept.keys() == tensors.keys()
        assert all(torch.equal(kept[name], tensor) for name, tensor in tensors.items())
    assert max(gap for device, gap in gaps.items() if device >= 0) > 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.mark.parametrize("method", METHODS)
def test_batteries_go_on_being_drained(method: str, world: World, tmp_path: Path) -> None:
    """The world's batteries, at a fixed rank: what each device spent is charged, and no device ends below zero."""
    keys = ["adapter.dropout=0", "evaluation.device_test_share=0.3", "plan.policy=fixed", "plan.deadline_s=1e6"]
    with one_thread_only():
        run = world.run(tmp_path / "run", *keys, "adapter.layers=last:2", f"personalization.method={method}")
    costs = [line["cost"] for line in lines(run / "devices.jsonl") if line["cost"] is not None]
    assert costs
    assert all(cost["spent_j"] > 0 for cost in costs)


def test_ranks_of_ones_own(tiny_bert: Path) -> None:
    """HetLoRA's devices of ranks 1 and 2: each keeps a personal adapter of its own rank, and is measured with it."""
    for method in ("fdlora", "ditto", "feddpa"):
        federated = {"rule": "hetlora", "ranks": (1, 2, 1, 2)}
        made = federation(tiny_bert, method, federation=federated)
        results = list(made.run())
        assert all(line.refused is None for result in results for line in result.devices)
        for device, rank in enumerate((1, 2, 1, 2)):
            tensors = own_of(made, device, 6).tensors
            assert {len(tensor) for name, tensor in tensors.items() if name.startswith("lora_A")} == {rank}
        assert len(results[-1].scores) == 4
        assert named_tensors(made.initial).keys() == named_tensors(results[-1].state.adapter).keys()


def test_somebody_must_be_there_in_the_first_round(world: World) -> None:
    """Device 0 alone joins in the first round, and the skew leaves it without a sample."""
    keys = ["partition.kind=dirichlet", "partition.alpha=0.01", "plan=", "fleet=", "channel=", "federation.devices_per_round=1"]
    for seed in range(40):
        recipe = parse_recipe(world.recipe.read_text(), [*world.overrides, *keys, f"seed={seed}"])
        held = build(recipe).parts.held
        empty = [device for device, rows in enumerate(held) if not len(rows)]
        if empty:
            joins = [1 if device == empty[0] else 2 for device in range(len(held))]
            recipe = parse_recipe(
                world.recipe.read_text(), [*world.overrides, *keys, f"seed={seed}", f"federation.joins={joins}"]
            )
            with pytest.raises(RecipeError, match="no device that holds a sample joins in round 1"):
                build(recipe)
            return
    pytest.fail("no seed left a device without a sample")
