"""A data set and a recipe small enough to run in a second, and what two runs of it must share."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from fedfit.settings import Recipe

LETTERS = {"sport": "abcdefgh", "art": "ijklmnop", "law": "qrstuvwx"}
"""Each class has letters of its own, so that even a random encoder tells the classes apart. Not in sorted order."""

RECIPE = """
name = "tiny"
[data]
source = "csv"
max_tokens = 16
[adapter]
rank = 4
alpha = 4
dropout = 0.1
layers = "last:2"
[federation]
devices = 3
devices_per_round = 2
rounds = 3
[training]
batch_size = 8
learning_rate = 1e-2
dropout = true
[plan]
policy = "joint"
deadline_s = 1.35
[fleet]
max_frequency_hz = 1e7
capacitance = 1e-22
battery_j = 0.3
uplink_bandwidth_hz = 3e3
downlink_bandwidth_hz = 3e3
[channel]
fading = "rayleigh"
"""
"""45 samples on 3 devices: 15 each, so 2 steps; 2 devices a round, so 4 steps; 3 rounds, so 12 steps."""

STEPS_A_ROUND = 4


def write_texts(path: Path, count: int, seed: int) -> Path:
    """``count`` rows of text and label, the classes in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = list(LETTERS)[number % len(LETTERS)]
        letters = list(LETTERS[label] + "yz")
        words = ["".join(rng.choice(letters, size=2)) for _ in range(rng.integers(2, 8))]
        rows.append((" ".join(words), label))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@contextmanager
def one_thread_only() -> Iterator[None]:
    """Threads that wait for each other make tiny tensors slow, fifty times so on a busy machine.

    How many there are decides the last bits of a sum, so whatever is compared to the bit is computed in here.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class World:
    """Where the data are, which model is used, and how a run of them is started."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.train = write_texts(folder / "train.csv", 45, seed=1)
        self.test = write_texts(folder / "test.csv", 30, seed=2)
        self.recipe = folder / "tiny.toml"
        self.recipe.write_text(RECIPE)
        self.overrides = [f"data.train={self.train}", f"data.test={self.test}", f"model.name={model}"]

    def command(self, out: Path, *more: str) -> list[str]:
        """Arguments of ``fedfit`` that run the recipe into ``out``."""
        return ["run", str(self.recipe), "--out", str(out), *self.overrides, *more]

    def run(self, out: Path, *overrides: str) -> Path:
        """A whole run in this process, without a report."""
        recipe = parse_recipe(self.recipe.read_text(), [*self.overrides, *overrides])
        return finish(Session.start(recipe, out))


def resume(out: Path) -> Path:
    """What ``fedfit resume`` does, without a report."""
    return finish(Session.resume(out))


def stop_after(recipe: Recipe, out: Path, rounds: int) -> Path:
    """A run whose caller stops asking after ``rounds`` rounds."""
    session = Session.start(recipe, out)
    try:
        with closing(session.results()) as results:  # type: ignore[type-var]
            for result in results:
                if result.record.round == rounds:
                    break
    finally:
        session.folder.close()
    return out


def finish(session: Session) -> Path:
    """Runs a session to its end and lets go of its folder."""
    try:
        for _ in session.results():
            pass
    finally:
        session.folder.close()
    return session.folder.path


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a ``.jsonl`` file, each line strictly JSON."""
    return [json.loads(line, parse_constant=_refuse) for line in path.read_text().splitlines()]


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def timeless(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what a clock says."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "server_seconds")} for row in rows]


def outcome(run: Path) -> dict[str, Any]:
    """All that a run of the same recipe must repeat: every line but for seconds, and the adapter to the byte."""
    return {
        "rounds": timeless(lines(run / "rounds.jsonl")),
        "devices": timeless(lines(run / "devices.jsonl")),
        "adapter": (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        "labels": [path.read_text() for path in (run / "adapter").glob("labels.json")],
        "recipe": (run / "recipe.toml").read_text(),
        "partition": json.loads((run / "partition.json").read_text()),
    }
