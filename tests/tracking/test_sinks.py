"""Trackers beside the run folder's own files: all numbers of each round, once, also after a restart."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedfit.errors import RunFolderError
from fedfit.experiment.tracking_faults import missing_packages
from fedfit.experiment.validate import validate_offline
from fedfit.records import RoundRecord
from fedfit.settings import Recipe, TrackingSettings
from fedfit.tracking.sinks import table
from fedfit.tracking.sinks.contract import Place, TrackedRun, numbers
from fedfit.tracking.sinks.table import SINKS, Sinks
from tests.tracking.results import result

PARAMETERS = {"seed": 1, "federation.ranks": [1, 2], "device[0].battery_j": 3.5, "name": "tiny"}


def run_in(folder: Path) -> TrackedRun:
    folder.mkdir(exist_ok=True)
    return TrackedRun(folder, "tiny", PARAMETERS)


def test_every_number_is_written_and_nothing_else() -> None:
    record = result(2, rank=4, train_loss=float("nan"), test_loss=float("inf")).record
    values = record.to_json()
    missing = {name for name, value in values.items() if value is None}
    assert numbers(record).keys() == values.keys() - missing - {"round", "train_loss", "test_loss"}
    assert numbers(record)["rank"] == 4
    assert all(type(value) is float for value in numbers(record).values())


# --- what each tracker holds, in its own words


def tensorboard_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False).Reload()
    return [(event.step, event.value) for event in board.Scalars(name)]


def tensorboard_parameters(folder: Path) -> dict[str, str]:
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    text = board.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    return dict(line.strip().split(" = ", 1) for line in text.splitlines())


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedfit")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def mlflow_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    client, found = mlflow_run(folder)
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, name))


def mlflow_parameters(folder: Path) -> dict[str, str]:
    _, found = mlflow_run(folder)
    assert (found.info.run_name, found.info.status) == ("tiny", "FINISHED")
    return {name.replace("device.0.", "device[0]."): value for name, value in found.data.params.items()}


def wandb_records(folder: Path) -> Iterator[Any]:
    """What ``wandb sync`` would upload: records in the framing of LevelDB's log, after a head of 7 bytes."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process writes on for a moment after a run's end, as it does when fedfit ends
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        raw, place, joined = file.read_bytes(), 7, b""
        while place + 7 <= len(raw):
            if 32768 - place % 32768 < 7:  # no head fits into the rest of the block
                place += 32768 - place % 32768
                continue
            length, kind = struct.unpack("<HB", raw[place + 4 : place + 7])
            joined += raw[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last piece
                yield wandb_internal_pb2.Record.FromString(joined)
                joined = b""


def wandb_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    found = []
    for record in wandb_records(folder):
        items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        if name in items:
            found.append((int(items["_step"]), float(items[name])))
    return found


def wandb_parameters(folder: Path) -> dict[str, str]:
    runs = [record.run for record in wandb_records(folder) if record.HasField("run")]
    assert {(run.display_name, run.project) for run in runs} == {("tiny", "fedfit")}
    assert len({run.run_id for run in runs}) == 1, "a run that is resumed goes on under the same id"
    items = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    return {name: str(value) for name, value in items.items() if name in PARAMETERS}


Scalars = Callable[[Path, str], list[tuple[int, float]]]
READERS: dict[str, tuple[Scalars, Callable[[Path], dict[str, str]]]] = {
    "tensorboard": (tensorboard_scalars, tensorboard_parameters),
    "mlflow": (mlflow_scalars, mlflow_parameters),
    "wandb": (wandb_scalars, wandb_parameters),
}


@pytest.fixture(params=READERS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker that is installed here, with nothing in the environment that leads it elsewhere."""
    name = str(request.param)
    if not SINKS[name].is_installed():
        pytest.skip(f"{name} is not installed: pip install 'fedfit[{name}]'")
    for variable in [variable for variable in os.environ if variable.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(variable)
    return name


def test_rounds_before_and_after_a_restart(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first process was killed between a round's checkpoint and its sink."""
    scalars, parameters = READERS[kind]
    run = run_in(tmp_path / "run")
    first = Sinks([kind], run, ())
    for number in range(2):
        first.write(result(number).record)
    first.close()
    second = Sinks([kind], run, [result(number).record for number in range(3)])
    second.write(result(3, test_accuracy=0.75).record)
    second.close()
    expected = [(0, 0.5), (1, pytest.approx(0.51)), (2, pytest.approx(0.52)), (3, 0.75)]
    assert scalars(run.folder, "test_accuracy") == expected
    assert scalars(run.folder, "train_loss") == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert scalars(run.folder, "uplink_bytes") == [(0, 0), (1, 20), (2, 20), (3, 20)]
    assert parameters(run.folder) == {name: str(value) for name, value in PARAMETERS.items()}
    assert [entry.message for entry in caplog.records if entry.name.startswith("fedfit")] == []


def test_what_is_not_finite_is_left_out(kind: str, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    sinks = Sinks([kind], run, ())
    sinks.write(result(1, test_loss=float("nan")).record)
    sinks.write(result(2).record)
    sinks.close()
    assert READERS[kind][0](run.folder, "test_loss") == [(2, 1.25)]


def test_a_round_that_the_checkpoint_does_not_know(kind: str, tmp_path: Path) -> None:
    """The newest checkpoint was damaged, so that round 2 is run again; it is the same round."""
    run = run_in(tmp_path / "run")
    first = Sinks([kind], run, ())
    for number in range(3):
        first.write(result(number).record)
    first.close()
    second = Sinks([kind], run, [result(0).record, result(1).record])
    second.write(result(2).record)
    second.close()
    assert [step for step, _ in READERS[kind][0](run.folder, "test_accuracy")] == [0, 1, 2]


# --- without any tracker's help


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_bytes(b"")
    with pytest.raises(RunFolderError, match="cannot be written"):
        Sinks(["tensorboard"], run_in(tmp_path), ())


class Failing:
    """A tracker whose server goes away in round 2."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def write(self, record: RoundRecord) -> None:
        if record.round == 2:
            raise ConnectionError("no route to host")
        self.rounds.append(record.round)

    def close(self) -> None:
        self.rounds.append(-1)


def test_a_tracker_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Failing()
    kind = replace(SINKS["mlflow"], packages=())
    monkeypatch.setattr(table, "SINKS", {**SINKS, "mlflow": kind})
    monkeypatch.setattr(type(kind), "open", lambda self, run: sink)
    sinks = Sinks(["mlflow"], run_in(tmp_path), [result(0).record])
    for number in range(1, 5):
        sinks.write(result(number).record)
    sinks.close()
    assert sink.rounds == [0, 1]
    assert caplog.text.count("mlflow failed (no route to host) and is left out from here; the run goes on") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run_id": "x"}', "[" * 100_000])
def test_a_damaged_place_begins_anew(text: str, tmp_path: Path) -> None:
    Place(tmp_path).note("abc", 3)
    assert (Place(tmp_path).run_id, Place(tmp_path).last_round) == ("abc", 3)
    (tmp_path / "fedfit.json").write_text(text)
    assert (Place(tmp_path).run_id, Place(tmp_path).last_round) == (None, -1)


def with_sinks(*names: str) -> Recipe:
    return replace(Recipe(), tracking=TrackingSettings(names))


def test_an_unknown_tracker_is_a_fault() -> None:
    faults = [fault for fault in validate_offline(with_sinks("tensorbord")) if fault.key == "tracking.sinks"]
    assert [str(fault) for fault in faults] == [
        "tracking.sinks = 'tensorbord': did you mean 'tensorboard'? choose one of tensorboard, mlflow, wandb"
    ]


def test_none_at_all_is_fine(tmp_path: Path) -> None:
    assert not [fault for fault in validate_offline(with_sinks()) if fault.key == "tracking.sinks"]
    sinks = Sinks((), run_in(tmp_path), ())
    sinks.write(result(0).record)
    sinks.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing_is_a_fault_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    (fault,) = missing_packages(with_sinks("tensorboard", name))
    assert str(fault) == (
        f"tracking.sinks = '{name}': its package is not installed; run pip install 'fedfit[{name}]', or take it out of the list"
    )


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for kind in SINKS.values():
        wanted = project["optional-dependencies"].get(kind.extra, [])
        assert all(any(line.startswith(name) for line in wanted) for name in kind.packages)


def test_a_folder_called_wandb_is_no_package(tmp_path: Path) -> None:
    """W&B leaves one where it was run, and Python takes it for a package without content."""
    (tmp_path / "wandb_folder").mkdir()
    script = (
        "from fedfit.tracking.sinks.table import SinkKind\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('wandb_folder') is not None\n"
        "assert not SinkKind('m', 'C', ('wandb_folder',), 'x').is_installed()\n"
        "assert SinkKind('m', 'C', ('json',), 'x').is_installed()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
