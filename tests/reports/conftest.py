"""Run folders made by hand, so that every expected number can be worked out from what is written here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

MakeRun = Callable[..., Path]

ACCURACIES = (0.25, 0.80, 0.90, 0.85)
"""Rounds 0 to 3: the best is round 2, the last is worse."""
LABELS = ["Business", "Sci/Tech", "Sports", "World"]


def round_line(count: int, accuracy: float | None, devices: int = 3, refused: int = 0) -> dict[str, Any]:
    """Each device sends 1,000 bytes and receives 2,000; a round takes 2 s and the first evaluation 0.5 s."""
    trained = count > 0
    return {
        "round": count,
        "test_accuracy": accuracy,
        "test_macro_f1": None if accuracy is None else accuracy - 0.01,
        "test_loss": None if accuracy is None else 1.5 - accuracy,
        "train_loss": 1.4 - (accuracy or 0.0) if trained else None,
        "uplink_bytes": 1_000 * (devices - refused) if trained else 0,
        "downlink_bytes": 2_000 * devices if trained else 0,
        "seconds": 2.0 if trained else 0.5,
        "devices": devices if trained else 0,
        "refused": refused,
    }


def device_line(count: int, device: int, refused: str | None = None) -> dict[str, Any]:
    return {
        "round": count,
        "device": device,
        "samples": 100 + device,
        "steps": 4,
        "train_loss": None if refused else 0.5,
        "uplink_bytes": 0 if refused else 1_000,
        "downlink_bytes": 2_000,
        "seconds": 0.6,
        "refused": refused,
    }


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_run(
    folder: Path,
    *,
    name: str = "agnews-minilm",
    accuracies: Sequence[float | None] = ACCURACIES,
    planned: int = 3,
    devices: int = 3,
    counts: list[list[int]] | None = None,
    refused: dict[int, str] | None = None,
    target: float = 0.0,
) -> Path:
    """``refused`` maps devices to the reason for which the last round left their update out."""
    folder.mkdir(parents=True)
    toml_name = json.dumps(name)
    (folder / "recipe.toml").write_text(
        f"name = {toml_name}\nseed = 0\n[adapter]\ntargets = ['query', 'value']\n"
        f"[federation]\ndevices = {devices}\nrounds = {planned}\n[training]\ntarget_accuracy = {target}\n",
        encoding="utf-8",
    )
    environment = {"python": "3.11.9", "cores": 2, "device": "cpu", "versions": {"torch": "2.8.0"}}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    last, refused = len(accuracies) - 1, refused or {}
    write_lines(
        folder / "rounds.jsonl",
        [
            round_line(count, accuracy, devices, len(refused) if count == last else 0)
            for count, accuracy in enumerate(accuracies)
        ],
    )
    write_lines(
        folder / "devices.jsonl",
        [
            device_line(count, device, refused.get(device) if count == last else None)
            for count in range(1, last + 1)
            for device in range(devices)
        ],
    )
    counts = [[30 + device, 20, 25, 25] for device in range(devices)] if counts is None else counts
    partition = {"labels": LABELS, "counts": counts, "kind": "a key of a later version"}
    (folder / "partition.json").write_text(json.dumps(partition), encoding="utf-8")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Call with a folder name and what differs from three devices and three finished rounds."""

    def make(folder: str = "run", **changes: Any) -> Path:
        return _write_run(tmp_path / folder, **changes)

    return make
