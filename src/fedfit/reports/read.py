"""A run folder as plain values. Everything else in this room works on the :class:`RunData` read here."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedfit.errors import RunFolderError

RECIPE, ENVIRONMENT, ROUNDS, DEVICES, PARTITION = (
    "recipe.toml",
    "environment.json",
    "rounds.jsonl",
    "devices.jsonl",
    "partition.json",
)

COUNTS = ("round", "uplink_bytes", "downlink_bytes", "seconds")
MEASURES = ("test_accuracy", "test_macro_f1", "test_loss", "train_loss")
"""What a round measured; null where it could not be (no training in round 0, a loss that was not finite)."""
DEVICE_COUNTS = (*COUNTS, "device", "samples", "steps")
DEVICE_MEASURES = ("train_loss",)
PLANNED = ("rank", "simulated_s", "simulated_j")
"""Of a round, where rounds are planned; null or not there at all elsewhere."""
TIME_PARTS, ENERGY_PARTS = ("compute", "uplink", "downlink"), ("compute", "uplink", "circuit")
CHARGE = (*(f"{part}_s" for part in TIME_PARTS), *(f"{part}_j" for part in ENERGY_PARTS))
"""The keys of a charge in ``cost.formula`` and ``cost.sent``; null for what is not finite (no link at all)."""


@dataclass(frozen=True)
class RunData:
    """One run as it stands on disk, finished or not. ``rounds`` starts with round 0, the untrained model.

    ``partition`` is ``{"labels": [names], "counts": [[samples by class] by device]}``, or ``None`` where there
    is none. ``devices`` may hold lines of a round that is not finished yet.
    """

    folder: Path
    name: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    rounds: list[dict[str, Any]]
    devices: list[dict[str, Any]]
    partition: dict[str, Any] | None

    def series(self, key: str) -> list[float]:
        """``key`` of every round in order; what was not measured is NaN."""
        return [number(row.get(key)) for row in self.rounds]

    @property
    def planned_rounds(self) -> int | None:
        """Rounds that the recipe asks for."""
        planned = self.recipe.get("federation", {}).get("rounds")
        return planned if isinstance(planned, int) else None

    @property
    def device_count(self) -> int:
        """Devices that hold data: counted in the partition, else as the recipe says, else as far as they were seen."""
        if self.partition is not None:
            return len(self.partition["counts"])
        asked = self.recipe.get("federation", {}).get("devices")
        return asked if isinstance(asked, int) else len({row["device"] for row in self.devices})

    @property
    def deciding_charge(self) -> str:
        """``"sent"`` or ``"formula"``: which of a device's two charges makes the time and energy of a round."""
        return "formula" if self.recipe.get("plan", {}).get("count") == "formula" else "sent"

    def finished_devices(self) -> list[dict[str, Any]]:
        """Device records of all finished rounds."""
        last = self.rounds[-1]["round"]
        return [row for row in self.devices if row["round"] <= last]

    def last_devices(self) -> list[dict[str, Any]]:
        """Device records of the last finished round, by device number."""
        last = self.rounds[-1]["round"]
        return sorted((row for row in self.devices if row["round"] == last), key=lambda row: row["device"])


def read_run(folder: Path) -> RunData:
    """Read ``folder``, which may belong to a run that still goes on or was cut short.

    Raises ``RunFolderError`` when it is no run folder, when no round is finished, or naming the file and line that is
    damaged. A last line without a newline that does not parse was cut off while it was written, and is left out.
    """
    _check_is_run_folder(folder)
    recipe = _read_recipe(folder / RECIPE)
    rounds = list(_read_lines(folder / ROUNDS, COUNTS, MEASURES))
    if not rounds:
        raise RunFolderError(f"{folder} holds no finished round yet: `fedfit resume {folder}` goes on with the run")
    _check_order(folder / ROUNDS, rounds)
    return RunData(
        folder=folder,
        name=str(recipe.get("name", folder.resolve().name)),
        recipe=recipe,
        environment=_read_object(folder / ENVIRONMENT) or {},
        rounds=rounds,
        devices=list(_read_lines(folder / DEVICES, DEVICE_COUNTS, DEVICE_MEASURES)),
        partition=_read_partition(folder / PARTITION),
    )


def display_names(runs: Sequence[RunData]) -> list[str]:
    """The name of every run; equal ones are told apart by their folder, and by its whole path if need be."""
    names = [run.name for run in runs]
    for tell_apart in (lambda folder: folder.resolve().name, lambda folder: str(folder)):
        counted = Counter(names)
        names = [
            name if counted[name] == 1 else f"{run.name} ({tell_apart(run.folder)})"
            for name, run in zip(names, runs, strict=True)
        ]
    return names


def number(value: float | None) -> float:
    """``value`` as a float; ``None``, which JSON keeps for what was not measured, is NaN."""
    return math.nan if value is None else float(value)


def _check_is_run_folder(folder: Path) -> None:
    remedy = "name the folder of a run, or make one with `fedfit run RECIPE --out DIR`"
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {state}: {remedy}")
    missing = [name for name in (RECIPE, ROUNDS) if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(f"{folder} is not a run folder, it lacks {' and '.join(missing)}: {remedy}")


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(str(path), str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_object(path: Path) -> dict[str, Any] | None:
    """The one JSON object of ``path``, or ``None`` where there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(str(path), str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(str(path), "it is not a JSON object")
    return value


def _read_partition(path: Path) -> dict[str, Any] | None:
    partition = _read_object(path)
    if partition is None:
        return None
    labels, counts = partition.get("labels"), partition.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or not labels or not counts:
        raise _damaged(str(path), "`labels` and `counts` must be lists that are not empty")
    for device, row in enumerate(counts):
        if not isinstance(row, list) or len(row) != len(labels) or not all(_is_number(count) for count in row):
            raise _damaged(str(path), f"`counts` of device {device} must be {len(labels)} numbers, one a label")
    return partition


def _read_lines(path: Path, required: Sequence[str], nullable: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield _parse_line(line, required, nullable)
                except ValueError as error:
                    # Only the last line can lack its newline: the writer was stopped in the middle of it.
                    if line.endswith(b"\n"):
                        raise _damaged(f"{path}, line {count}", str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _parse_line(line: bytes, required: Sequence[str], nullable: Sequence[str]) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    for key in required:
        if not _is_number(row.get(key)):
            raise ValueError(f"`{key}` must be a number")
    for key in nullable:
        if key not in row or not _is_number_or_null(row[key]):
            raise ValueError(f"`{key}` must be a number or null")
    for key in PLANNED:
        if not _is_number_or_null(row.get(key)):
            raise ValueError(f"`{key}` must be a number or null")
    if row.get("cost") is not None:
        _check_cost(row["cost"])
    return row


def _check_cost(cost: object) -> None:
    if (
        not isinstance(cost, dict)
        or not isinstance(cost.get("binding"), str)
        or not _is_number_or_null(cost.get("frequency_hz"))
    ):
        raise ValueError("`cost` must be null or an object with `binding` and `frequency_hz`")
    if not _is_number_or_null(cost.get("spent_j")):
        raise ValueError("`cost.spent_j` must be a number or null")
    for name in ("formula", "sent"):
        charge = cost.get(name)
        if not isinstance(charge, dict) or not all(key in charge and _is_number_or_null(charge[key]) for key in CHARGE):
            raise ValueError(f"`cost.{name}` must have {', '.join(CHARGE)}, each a number or null")


def _check_order(path: Path, rounds: Sequence[dict[str, Any]]) -> None:
    for before, after in pairwise(rounds):
        if after["round"] <= before["round"]:
            raise _damaged(str(path), f"round {after['round']} comes after round {before['round']}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_or_null(value: object) -> bool:
    return value is None or _is_number(value)


def _damaged(where: str, reason: str) -> RunFolderError:
    return RunFolderError(f"{where} is damaged ({reason}): restore it, or run the recipe again with `--force`")


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read ({error.strerror}): mend its permissions and try again")
