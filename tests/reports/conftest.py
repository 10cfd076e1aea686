"""Writes run folders with simple numbers, so that every expected result can be computed by hand."""

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
    """A line of ``rounds.jsonl``: each device sends 1,000 bytes and receives 2,000; a round takes 2 s, round 0 takes 0.5 s."""
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
        "rank": None,
        "simulated_s": None,
        "simulated_j": None,
        "server_seconds": 0.1 if trained else None,
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
        "rank": None,
        "cost": None,
    }


def charge(device: int, factor: float = 1.0) -> dict[str, float]:
    """The charge of device i: 10 + i s and 4 + i J of computing, 2 s and 0.5 J of uplink, 1 s of downlink, 0.1 J of circuit.

    The latency is therefore 13 + i s and the energy 4.6 + i J, all times ``factor``.
    """
    parts = {
        "compute_s": 10 + device,
        "uplink_s": 2,
        "downlink_s": 1,
        "compute_j": 4 + device,
        "uplink_j": 0.5,
        "circuit_j": 0.1,
    }
    return {name: factor * value for name, value in parts.items()}


def planned_device_line(count: int, device: int, rank: int, binding: str, refused: str | None = None) -> dict[str, Any]:
    """A device's line in a planned run: (1 + i/10) GHz, charge ``sent`` twice the charge ``formula``, 7.5 J spent."""
    link = {"uplink_gain": 1e-7, "downlink_gain": 1e-7, "uplink_bits_per_s": 1e6, "downlink_bits_per_s": 2e6, "server": 0}
    cost = {
        "frequency_hz": 0.0 if rank == 0 else 1e9 + 1e8 * device,
        "binding": binding,
        "link": link,
        "formula": charge(device),
        "sent": charge(device, 2.0),
        "spent_j": 7.5,
    }
    return {**device_line(count, device, refused), "rank": rank, "cost": cost}


def plan_run(folder: Path, ranks: Sequence[int], bindings: Sequence[str], *, count: str = "sent", common: bool = False) -> Path:
    """Turn the run in ``folder`` into a planned run, with ``ranks`` and ``bindings`` by device, equal in every round.

    A round lasts 20 s and takes 50 J from all devices together; round 0 has 0 s and 0 J.
    """
    with (folder / "recipe.toml").open("a", encoding="utf-8") as recipe:
        recipe.write(f'[plan]\npolicy = "{"joint" if common else "per_device"}"\ndeadline_s = 25.0\ncount = "{count}"\n')
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rounds:
        trained = row["round"] > 0
        row.update(simulated_s=20.0 * trained, simulated_j=50.0 * trained, rank=min(ranks) if common and trained else None)
    write_lines(folder / "rounds.jsonl", rounds)
    devices = [
        planned_device_line(row["round"], device, rank, binding, "its battery is empty" if rank == 0 else None)
        for row in rounds
        if row["round"] > 0
        for device, (rank, binding) in enumerate(zip(ranks, bindings, strict=True))
    ]
    write_lines(folder / "devices.jsonl", devices)
    return folder


def plan_json(ranks: Sequence[int], bindings: Sequence[str], *, common: bool = True, infeasible: int = 0) -> dict[str, Any]:
    """The JSON of ``fedfit plan`` for phones of these highest ranks; latency and energy as in ``charge``."""
    devices, lowest = [], min(ranks, default=None)
    for device, (rank, binding) in enumerate(zip(ranks, bindings, strict=True)):
        parts = charge(device % 10)
        latency = {name: parts[f"{name}_s"] for name in ("compute", "uplink", "downlink")}
        energy = {name: parts[f"{name}_j"] for name in ("compute", "uplink", "circuit")}
        devices.append(
            {
                "id": f"phone-{device}",
                "max_rank": rank,
                "rank": lowest if common else rank,
                "frequency_hz": 1.25e9,
                "frequency_range_hz": [1.25e9, 2e9],
                "latency_s": {**latency, "total": sum(latency.values())},
                "energy_j": {**energy, "total": sum(energy.values())},
                "energy_budget_j": 20.0,
                "binding": binding,
            }
        )
    return {
        "rank": lowest if common else None,
        "policy": "common" if common else "per_device",
        "solver": "bisection",
        "deadline_s": 25.0,
        "devices": devices,
        "remedy": None if devices else "a deadline of 30 s would do for all of them",
        "infeasible": [
            {"id": f"watch-{index}", "reason": "rank 1 takes longer than the deadline"} for index in range(infeasible)
        ],
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
    """Write a run folder; ``refused`` maps devices to the reason why the last round refused their update."""
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
    """Function that writes a run folder of three devices and three finished rounds; keywords change these defaults."""

    def make(folder: str = "run", **changes: Any) -> Path:
        return _write_run(tmp_path / folder, **changes)

    return make


def rewrite_rounds(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Apply ``change`` to each line of ``rounds.jsonl``."""
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    write_lines(folder / "rounds.jsonl", [change(row) for row in rows])
    return folder


def without_metrics(row: dict[str, Any]) -> dict[str, Any]:
    """``row`` as a round without evaluation."""
    return {key: value for key, value in row.items() if not key.startswith("test_")}
