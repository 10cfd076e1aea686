"""What a run leaves: the same from the same recipe, and of use without fedfit."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.tracking.sinks.table import SINKS
from tests.tracking.test_sinks import READERS
from tests.trajectories.process import AtStep, AtSync, fedfit
from tests.trajectories.world import LETTERS, STEPS_A_ROUND, World, lines, outcome, resume


def test_the_same_recipe_twice(world: World, reference: Path, tmp_path: Path) -> None:
    assert outcome(world.run(tmp_path / "again")) == outcome(reference)


def test_the_same_in_another_process_without_a_cache_to_read(world: World, reference: Path, tmp_path: Path) -> None:
    ended = fedfit(world.command(tmp_path / "run", "--quiet"), tmp_path / "scratch", tmp_path / "cold-cache")
    assert ended.status == 0, ended.stderr
    assert outcome(tmp_path / "run") == outcome(reference)


def test_another_seed_is_another_run(world: World, reference: Path, tmp_path: Path) -> None:
    run = world.run(tmp_path / "run", "seed=1")
    assert outcome(run)["adapter"] != outcome(reference)["adapter"]


def test_the_cache_changes_no_result(world: World, reference: Path, tmp_path: Path) -> None:
    run = world.run(tmp_path / "run", "trunk_cache.enabled=false")
    assert outcome(run)["rounds"] == outcome(reference)["rounds"]
    assert outcome(run)["adapter"] == outcome(reference)["adapter"]


def test_it_learns(reference: Path) -> None:
    first, *_, last = lines(reference / "rounds.jsonl")
    assert last["test_accuracy"] > first["test_accuracy"] + 0.2
    assert last["test_loss"] < first["test_loss"]


def test_lines_hold_what_the_issue_promises(reference: Path) -> None:
    rounds, devices = lines(reference / "rounds.jsonl"), lines(reference / "devices.jsonl")
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    assert [row["round"] for row in devices] == [1, 1, 2, 2, 3, 3]
    promised = {
        "round",
        "test_accuracy",
        "test_macro_f1",
        "test_loss",
        "train_loss",
        "uplink_bytes",
        "downlink_bytes",
        "seconds",
    }
    assert all(promised <= row.keys() for row in rounds)
    promised = {"round", "device", "samples", "steps", "train_loss", "uplink_bytes", "downlink_bytes", "seconds"}
    assert all(promised <= row.keys() for row in devices)
    assert all((row["samples"], row["steps"], row["refused"]) == (15, 2, None) for row in devices)
    for row in rounds[1:]:
        mine = [device for device in devices if device["round"] == row["round"]]
        for key in ("uplink_bytes", "downlink_bytes"):
            assert row[key] == sum(device[key] for device in mine) > 0


def test_the_folder_holds_the_resolved_recipe(reference: Path, world: World) -> None:
    recipe = parse_recipe((reference / "recipe.toml").read_text())
    assert recipe == parse_recipe(world.recipe.read_text(), world.overrides)
    assert to_toml(recipe) == (reference / "recipe.toml").read_text()
    environment = json.loads((reference / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__


def test_relative_paths_are_resolved(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begun in one folder goes on from another."""
    monkeypatch.chdir(world.folder)
    cache = "trunk_cache.folder=states"
    run = world.run(tmp_path / "run", "data.train=train.csv", "data.test=test.csv", cache, "federation.rounds=1")
    monkeypatch.chdir(tmp_path)
    resume(run)
    recipe = parse_recipe((run / "recipe.toml").read_text())
    assert recipe.data.train == str(world.train)
    assert recipe.trunk_cache.folder == str(world.folder / "states")
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("head", ["train", "freeze"])
def test_adapter_loads_with_plain_peft(
    family: str, head: str, tiny_models: dict[str, Path], world: World, tmp_path: Path
) -> None:
    base = tiny_models[family]
    run = world.run(tmp_path / "run", f"model.name={base}", f"adapter.head={head}", "federation.rounds=2")
    last = lines(run / "rounds.jsonl")[-1]
    accuracy, loss = score_by_peft(base, run / "adapter", world.test)
    assert accuracy == last["test_accuracy"]
    assert loss == pytest.approx(last["test_loss"], rel=1e-5)  # an accuracy of few samples forgives much


def score_by_peft(base: Path, adapter: Path, test: Path) -> tuple[float, float]:
    """Accuracy and loss, as somebody who has never heard of fedfit would write it, padded to the longest text."""
    names = json.loads((adapter / "labels.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
    model = PeftModel.from_pretrained(model, adapter).eval()
    with test.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(base)
    batch = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return float(accuracy), float(torch.nn.functional.cross_entropy(logits, labels))


def test_labels_are_sorted_names(reference: Path) -> None:
    assert json.loads((reference / "adapter" / "labels.json").read_text()) == ["art", "law", "sport"]
    assert list(LETTERS) != ["art", "law", "sport"], "the test needs labels that do not come sorted"


def test_a_frozen_head_stays_as_drawn_and_is_not_sent(world: World, reference: Path, tmp_path: Path) -> None:
    runs = [world.run(tmp_path / str(rounds), "adapter.head=freeze", f"federation.rounds={rounds}") for rounds in (1, 2)]
    one, two = (load_file(run / "adapter" / "adapter_model.safetensors") for run in runs)
    trained = load_file(reference / "adapter" / "adapter_model.safetensors")
    assert one.keys() == trained.keys(), "a fresh head cannot be had from elsewhere, so it is saved also when frozen"
    for name in one:
        assert torch.equal(one[name], two[name]) == ("classifier" in name), name
        if "classifier" in name:
            assert not torch.equal(one[name], trained[name])
    sent, sent_with_head = (lines(run / "devices.jsonl")[0]["uplink_bytes"] for run in (runs[0], reference))
    head_bytes = sum(4 * tensor.numel() for name, tensor in one.items() if "classifier" in name)
    assert sent_with_head - sent >= head_bytes


@pytest.mark.parametrize(
    ("layers", "adapted", "cached"), [("all", "0123", False), ("first:2", "01", False), ("[1, 3]", "13", True)]
)
def test_layers(layers: str, adapted: str, cached: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    run = world.run(tmp_path / "run", f"adapter.layers={layers}", "federation.rounds=2")
    names = load_file(run / "adapter" / "adapter_model.safetensors")
    assert sorted({name.split(".layer.")[1][0] for name in names if "lora" in name}) == list(adapted)
    rows = lines(run / "rounds.jsonl")
    assert rows[-1]["test_loss"] < rows[0]["test_loss"]
    assert bool(list((tmp_path / "cache").rglob("*.data"))) == cached


def _events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in the event files, with nothing that TensorBoard would leave out on its own."""
    board = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False).Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def _expected_events(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """The lines of ``rounds.jsonl``, to the float32 of an event."""
    rows = lines(run / "rounds.jsonl")
    names = set(rows[0]) - {"round"}
    measured = {name: [row for row in rows if row[name] is not None] for name in names}
    return {name: [(row["round"], pytest.approx(row[name])) for row in measured[name]] for name in names}


def test_tensorboard_has_the_same_numbers(reference: Path) -> None:
    assert _events(reference) == _expected_events(reference)


@pytest.mark.parametrize(
    "point",
    [
        AtStep(2 * STEPS_A_ROUND + 1),
        AtSync(r"\.round-000002\.checkpoint\..*", lost_bytes=0),
        AtSync("devices.jsonl", nth=3),
    ],
    ids=["in round 3", "before a checkpoint", "in a line"],
)
def test_tensorboard_after_a_kill(point: AtStep | AtSync, world: World, tmp_path: Path) -> None:
    """No round twice and none left out, whichever of checkpoint and events came first."""
    run = tmp_path / "run"
    assert fedfit(world.command(run), tmp_path / "scratch", tmp_path / "cache", point).status < 0
    resume(run)
    assert _events(run) == _expected_events(run)
    assert len(_events(run)["test_accuracy"]) == 4


@pytest.mark.parametrize("sinks", [(), ("tensorboard",), ("mlflow",), ("wandb",)], ids=str)
def test_trackers_change_no_result_and_may_be_added_later(
    sinks: tuple[str, ...], world: World, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds without any, the last one with; the tracker then has all of them."""
    missing = [name for name in sinks if not SINKS[name].is_installed()]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: pip install 'fedfit[{missing[0]}]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = world.run(tmp_path / "run", "federation.rounds=2", "tracking.sinks=[]")
    assert not [name for name in SINKS if (run / name).exists()]
    text = (run / "recipe.toml").read_text().replace("\nrounds = 2", "\nrounds = 3")
    (run / "recipe.toml").write_text(text.replace("sinks = []", f"sinks = {list(sinks)}"))
    resumed, whole = outcome(resume(run)), outcome(reference)
    assert (resumed["rounds"], resumed["devices"], resumed["adapter"]) == (whole["rounds"], whole["devices"], whole["adapter"])
    assert [name for name in SINKS if (run / name).exists()] == list(sinks)
    for name in sinks:
        wanted: list[Any] = [(row["round"], pytest.approx(row["test_accuracy"])) for row in lines(run / "rounds.jsonl")]
        assert READERS[name][0](run, "test_accuracy") == wanted
