"""Devices that join late, return after many rounds, or run out of battery: every method, and FDLoRA against a slow twin."""

from itertools import pairwise
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
    """Device 3 joins in the last of six rounds, where all four take part; before it the other three do."""
    made = federation(tiny_bert, method, federation={"joins": (1, 1, 1, 6)}, **LAYERS)
    results = list(made.run())
    assert [[line.device for line in result.devices] for result in results] == [[], *[[0, 1, 2]] * 5, [0, 1, 2, 3]]
    assert all(line.refused is None for result in results for line in result.devices)
    assert made.parts.memories.read(3, 6) is None
    assert (made.parts.memories.read(3, 7) is not None) == (method not in KEEPS_NOTHING)
    before, after = (next(score for score in result.scores if score.device == 3) for result in results[-2:])
    assert before.metrics != after.metrics
    assert before.metrics.keys() == after.metrics.keys()


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


@pytest.mark.parametrize("method", [method for method in METHODS if method not in KEEPS_NOTHING])
def test_a_device_that_returns_after_many_rounds_finds_its_own(method: str, tiny_bert: Path) -> None:
    """One device a round, over twelve rounds: what each kept is that of its last round, whoever came between."""
    made = federation(tiny_bert, method, federation={"devices_per_round": 1, "rounds": 12}, **LAYERS)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    rounds: dict[int, list[int]] = {device: [] for device in range(4)}
    for result in made.run():
        for line in result.devices:
            assert line.refused is None
            if line.device in kept:
                found = own_of(made, line.device, result.record.round - 1).tensors
                assert all(torch.equal(found[name], tensor) for name, tensor in kept[line.device].items())
            kept[line.device] = dict(own_of(made, line.device, result.record.round).tensors)
            rounds[line.device].append(result.record.round)
    assert max(later - sooner for some in rounds.values() for sooner, later in pairwise(some)) > 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.mark.parametrize("method", METHODS)
def test_a_battery_runs_out_and_the_others_go_on(method: str, world: World, tmp_path: Path) -> None:
    """Joules for about two rounds: no device spends more than it has, all are left out in the end, and keep what they have."""
    plain = ["adapter.dropout=0", "evaluation.device_test_share=0.3", "plan.policy=fixed", "plan.deadline_s=1e6"]
    keys = [*plain, "adapter.layers=last:2", f"personalization.method={method}", "federation.max_failed_rounds=99"]
    with one_thread_only():
        free = world.run(tmp_path / "free", *keys, "fleet.battery_j=")
        spent_j = max(line["cost"]["spent_j"] for line in lines(free / "devices.jsonl"))
        run = world.run(tmp_path / "run", *keys, f"fleet.battery_j={2.5 * spent_j}", "federation.rounds=5")
    found = lines(run / "devices.jsonl")
    for device in range(3):
        mine = [line for line in found if line["device"] == device]
        assert sum(line["cost"]["spent_j"] for line in mine if line["cost"]) <= 2.5 * spent_j * (1 + 1e-9)
    late = [line for line in found if line["round"] == 5]
    assert late
    assert all("battery" in line["refused"] for line in late)
    assert {score["device"] for score in lines(run / "scores.jsonl") if score["round"] == 5} == {0, 1, 2}


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
