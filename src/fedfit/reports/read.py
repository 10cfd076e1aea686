"""Reads a run folder into :class:`RunData`, which the other modules of this package take as input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedfit.core.run_files import check_is_run
from fedfit.errors import RunFolderError
from fedfit.metric_names import PREFIXES, higher_is_better
from fedfit.reports.files import damaged, is_number, read_lines, read_object, read_toml
from fedfit.reports.metrics import Measure

RECIPE, ENVIRONMENT, ROUNDS, DEVICES, PARTITION = (
    "recipe.toml",
    "environment.json",
    "rounds.jsonl",
    "devices.jsonl",
    "partition.json",
)
TASK, SCORES, EVALUATION = "task.json", "scores.jsonl", "evaluation.json"

COUNTS = ("round", "uplink_bytes", "downlink_bytes", "seconds")
MEASURES = ("train_loss",)
"""Measures of every round; null if not measured (no training in round 0, a loss that was not finite)."""
DEVICE_COUNTS = (*COUNTS, "device", "samples", "steps")
NAMED_VALUES = 3
"""Values of the partition's column that name a device; the others are counted."""
SCORE_COUNTS = ("round", "device", "samples")


@dataclass(frozen=True)
class RunData:
    """One run folder, finished or not. ``rounds`` starts with round 0, the untrained model.

    A round without evaluation has no metric. ``partition`` is ``{"labels": [names], "counts": [[samples by class] by
    device]}``, or ``None`` if the file is missing. ``devices`` and ``scores`` may hold lines of an unfinished round.
    ``task`` is empty in a folder without ``task.json``, and ``evaluation`` is ``None`` before the run is finished.
    """

    folder: Path
    name: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    rounds: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    partition: dict[str, Any] | None
    task: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None

    def series(self, key: str) -> list[float]:
        """``key`` of every round in order; NaN for a missing value."""
        return [number(row.get(key)) for row in self.rounds]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The full names of all metrics, in the order in which they are recorded."""
        return tuple(dict.fromkeys(key for row in self.rounds for key in row if key.startswith(PREFIXES)))

    @cached_property
    def measured(self) -> list[dict[str, Any]]:
        """The rounds with an evaluation."""
        return [row for row in self.rounds if any(key in row for key in self.keys)]

    @property
    def headline(self) -> str:
        """The full name of the metric that tables and curves show first: the task's, on the test set if measured there."""
        name = self.task.get("headline", "accuracy")
        wanted = [f"test_{name}", f"personal_{name}_mean", f"shared_{name}_mean", f"validation_{name}"]
        known = [key for key in self.keys if Measure.of(key).ending not in ("p10", "spread") and not Measure.of(key).is_loss]
        return next((key for key in (*(key for key in wanted if key in self.keys), *known, *self.keys)), wanted[0])

    def higher_is_better(self, key: str) -> bool:
        """Whether higher values of a metric are better: by the task, else by the metric's name; a lower spread is better."""
        measure = Measure.of(key)
        metrics = self.task.get("metrics", {})
        said = metrics[measure.name].get("higher_is_better") if measure.name in metrics else None
        return said if isinstance(said, bool) and measure.ending != "spread" else higher_is_better(key)

    def final(self, key: str) -> float:
        """``key`` in the last evaluation; NaN if that evaluation did not measure it."""
        return number(self.measured[-1].get(key)) if self.measured else math.nan

    @property
    def planned_rounds(self) -> int | None:
        """The number of rounds in the recipe; ``None`` without one."""
        planned = self.recipe.get("federation", {}).get("rounds")
        return planned if isinstance(planned, int) else None

    @property
    def device_count(self) -> int:
        """The number of devices with data: from the partition, else from the recipe, else from the device records."""
        if self.partition is not None:
            return len(self.partition["counts"])
        asked = self.recipe.get("federation", {}).get("devices")
        return asked if isinstance(asked, int) else len({row["device"] for row in self.devices})

    @property
    def device_names(self) -> list[str] | None:
        """With ``by_column`` the values behind each device, joined; ``None`` if devices have numbers alone."""
        named = (self.partition or {}).get("devices")
        if not isinstance(named, list) or len(named) != self.device_count:
            return None
        return [_shortened(values) for values in named]

    @property
    def deciding_charge(self) -> str:
        """``"sent"`` or ``"formula"``: the one of a device's two charges that sets the time and energy of a round."""
        return "formula" if self.recipe.get("plan", {}).get("count") == "formula" else "sent"

    def finished_devices(self) -> list[dict[str, Any]]:
        """Device records of all finished rounds."""
        last = self.rounds[-1]["round"]
        return [row for row in self.devices if row["round"] <= last]

    def last_devices(self) -> list[dict[str, Any]]:
        """Device records of the last finished round, by device number."""
        last = self.rounds[-1]["round"]
        return sorted((row for row in self.devices if row["round"] == last), key=lambda row: row["device"])

    def last_scores(self) -> list[dict[str, Any]]:
        """The scores of each device in the last finished round that has any, by device number."""
        finished = [row for row in self.scores if row["round"] <= self.rounds[-1]["round"]]
        last = max((row["round"] for row in finished), default=0)
        return sorted((row for row in finished if row["round"] == last), key=lambda row: row["device"])


def read_run(folder: Path) -> RunData:
    """The run in ``folder``, which may still be running or be interrupted.

    Ignores a last line that lacks its newline and does not parse: its writer was interrupted.

    Raises:
        RunFolderError: for a folder that is no run folder or has no finished round, or for a damaged file; the message names
            file and line.
    """
    check_is_run(folder, (RECIPE, ROUNDS))
    recipe = read_toml(folder / RECIPE)
    rounds = list(read_lines(folder / ROUNDS, COUNTS, MEASURES))
    if not rounds:
        raise RunFolderError(f"{folder} has no finished round yet: `fedfit resume {folder}` continues the run")
    _check_order(folder / ROUNDS, rounds)
    return RunData(
        folder=folder,
        name=str(recipe.get("name", folder.resolve().name)),
        recipe=recipe,
        environment=read_object(folder / ENVIRONMENT) or {},
        rounds=rounds,
        devices=list(read_lines(folder / DEVICES, DEVICE_COUNTS, MEASURES)),
        partition=_read_partition(folder / PARTITION),
        task=_read_task(folder / TASK),
        scores=list(read_lines(folder / SCORES, SCORE_COUNTS, ())),
        evaluation=read_object(folder / EVALUATION),
    )


def display_names(runs: Sequence[RunData]) -> list[str]:
    """A distinct name for every run: equal names are followed by the folder's name, or by its whole path if needed."""
    names = [run.name for run in runs]
    for tell_apart in (lambda folder: folder.resolve().name, lambda folder: str(folder)):
        counted = Counter(names)
        names = [
            name if counted[name] == 1 else f"{run.name} ({tell_apart(run.folder)})"
            for name, run in zip(names, runs, strict=True)
        ]
    return names


def common_metric(runs: Sequence[RunData]) -> str:
    """The full name of the metric to compare ``runs`` by: the first headline that all have, else the first common metric."""
    first = runs[0]
    wanted = [first.headline, *(run.headline for run in runs), *first.keys]
    return next((key for key in wanted if all(key in run.keys for run in runs)), first.headline)


def _shortened(values: Any) -> str:
    """The values joined, the first three of many."""
    words = [str(value) for value in values] if isinstance(values, list) else [str(values)]
    return ", ".join(words[:NAMED_VALUES]) + (f" and {len(words) - NAMED_VALUES} more" if len(words) > NAMED_VALUES else "")


def number(value: float | None) -> float:
    """``value`` as a float; NaN for ``None``, which marks a missing value in JSON."""
    return math.nan if value is None else float(value)


def _read_partition(path: Path) -> dict[str, Any] | None:
    partition = read_object(path)
    if partition is None:
        return None
    labels, counts = partition.get("labels"), partition.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or not labels or not counts:
        raise damaged(str(path), "`labels` and `counts` must be non-empty lists")
    for device, row in enumerate(counts):
        if not isinstance(row, list) or len(row) != len(labels) or not all(is_number(count) for count in row):
            raise damaged(str(path), f"`counts` of device {device} must be {len(labels)} numbers, one per label")
    return partition


def _read_task(path: Path) -> dict[str, Any]:
    task = read_object(path) or {}
    metrics = task.get("metrics", {})
    if not isinstance(task.get("headline", ""), str):
        raise damaged(str(path), "`headline` must be the name of a metric")
    if not isinstance(metrics, dict) or not all(isinstance(metric, dict) for metric in metrics.values()):
        raise damaged(str(path), "`metrics` must be an object of objects")
    return task


def _check_order(path: Path, rounds: Sequence[dict[str, Any]]) -> None:
    for before, after in pairwise(rounds):
        if after["round"] <= before["round"]:
            raise damaged(str(path), f"round {after['round']} comes after round {before['round']}")
