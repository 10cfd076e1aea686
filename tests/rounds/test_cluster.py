"""A device's training over two processes: real ones, joined by accelerate, against one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedfit.core.update import Job, named_tensors
from fedfit.rounds.cluster import Cluster, this_cluster
from fedfit.rounds.trainer import Trainer, share_of
from tests.builders import TASK, random_samples, tiny_experiment, tiny_recipe
from tests.trajectories.world import World, lines

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
PORT = ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "fedfit"]


class Alone(Cluster):
    """One of several processes, played one after the other: what the others computed is added from ``others``."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    @property
    def size(self) -> int:
        return self._size

    def part(self, batch: np.ndarray) -> np.ndarray:
        return batch[self._rank :: self._size]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return value


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_gradients_add_up_to_the_whole(size: int, tiny_bert: Path) -> None:
    """One step of SGD by each part alone moves by its share: the moves of all are the move of the batch."""
    training = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 0.0, "local_steps": 1}
    made = tiny_experiment(tiny_recipe(tiny_bert, training=training), None)
    rows, start = np.arange(8), named_tensors(made.initial)

    def moved(cluster: Cluster | None) -> dict[str, torch.Tensor]:
        parts, settings = made.parts, made.recipe.training
        trainer = Trainer(parts.model, parts.trunk, parts.task, settings, 0, 3, cluster)
        after = named_tensors(trainer.train(Job(made.initial), parts.train, rows, 1, 0))
        return {name: tensor - start[name] for name, tensor in after.items()}

    whole, parts = moved(None), [moved(Alone(rank, size)) for rank in range(size)]
    for name, tensor in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), tensor, rtol=1e-4, atol=1e-6)


def test_shares_are_of_what_the_loss_is_a_mean_over() -> None:
    samples = random_samples(8)
    assert share_of(TASK, samples, np.arange(3), np.arange(8)) == 3 / 8

    class Tokens:
        reference = None

        def reads(self, samples: Any) -> np.ndarray:
            return np.array([1, 2, 3, 4, 5, 6, 7, 8])

    assert share_of(Tokens(), samples, np.array([0, 7]), np.arange(8)) == 9 / 36  # type: ignore[arg-type]


def test_a_process_by_itself_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert this_cluster() is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert this_cluster() is None


def launched(arguments: list[str]) -> None:
    ended = subprocess.run([*LAUNCH, *PORT, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_two_processes_end_where_one_does(tiny_bert: Path, tmp_path: Path) -> None:
    """Adapter and losses to float tolerance, bytes equal; also after a run that was stopped and goes on in two processes.

    By SGD: AdamW's steps would make as much of a rounding as of a gradient where that is near zero.
    """
    world = World(tmp_path, tiny_bert)
    keys = ["adapter.dropout=0", "training.dropout=false", "training.optimizer=sgd", "training.learning_rate=0.3"]
    keys += ["plan=", "fleet=", "channel=", "training.batch_size=7"]
    one = world.run(tmp_path / "one", *keys)
    two = tmp_path / "two"
    launched([*world.command(two, *keys), "--quiet"])
    for mine, other in zip(lines(one / "rounds.jsonl"), lines(two / "rounds.jsonl"), strict=True):
        assert mine["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)
        assert mine["uplink_bytes"] == other["uplink_bytes"]
        assert mine["train_loss"] is None or mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    found, expected = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (two, one))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    recipe = two / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nrounds = 3", "\nrounds = 4"))
    launched(["resume", str(two), "--quiet"])
    assert lines(two / "rounds.jsonl")[-1]["round"] == 4
