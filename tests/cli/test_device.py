"""``--device``: the adapter that one device uses, exported, loaded by PEFT alone, and asked for predictions."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from peft import PeftConfig

from fedfit.api import load
from fedfit.experiment.build import build
from fedfit.experiment.runs import recipe_of
from tests.cli.command import Answer, fedfit, refused
from tests.trajectories.test_results import score_by_peft
from tests.trajectories.world import World, lines, one_thread_only

PLAIN = ("plan=", "fleet=", "channel=", "adapter.dropout=0", "evaluation.device_test_share=0.4")
METHOD = "personalization.method="


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each way in which devices come by models of their own."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    ways = {
        "factors": [f"{METHOD}fdlora", "personalization.fdlora.evaluations=6"],
        "products": [f"{METHOD}fdlora", "personalization.fdlora.fusion=products"],
        "ditto": [f"{METHOD}ditto"],
        "fedper": [f"{METHOD}fedper"],
        "pftt": [f"{METHOD}pftt", "adapter.layers=last:2"],
        "fine_tune": [f"{METHOD}fine_tune"],
        "fedsa": ["federation.rule=fedsa_lora"],
        "fedalt": [f"{METHOD}fedalt"],
        "none": [],
    }
    with one_thread_only():
        for name, keys in ways.items():
            found[name] = world.run(folder / name, *PLAIN, *keys)
    return found


def own_tests(run: Path, world: World, device: int, out: Path) -> Path:
    """The device's own test rows, as a file."""
    rows = build(recipe_of(run)).parts.own_tests[device]
    with world.train.open(newline="", encoding="utf-8") as file:
        header, *table = csv.reader(file)
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(table[row] for row in rows)])
    return out


@pytest.mark.parametrize(
    ("way", "model"),
    [
        ("factors", "fused"),
        ("products", "fused"),
        ("ditto", "personal"),
        ("fedper", "personal"),
        ("pftt", "personal"),
        ("fine_tune", "personal"),
        ("fedsa", "personal"),
    ],
)
def test_peft_alone_measures_what_the_run_measured(
    way: str, model: str, runs: dict[str, Path], world: World, tiny_bert: Path, tmp_path: Path
) -> None:
    """The adapter of the model that the device uses, on the device's own test rows."""
    score = next(line for line in lines(runs[way] / "scores.jsonl") if line["round"] == 3 and line["device"] == 1)
    answer = fedfit("export", runs[way], "--device", "1", "--out", tmp_path / "own", "--json")
    assert answer.json == {"adapter": str(tmp_path / "own")}
    accuracy, loss = score_by_peft(tiny_bert, tmp_path / "own", own_tests(runs[way], world, 1, tmp_path / "own.csv"))
    assert accuracy == pytest.approx(score[f"{model}_accuracy"])
    assert loss == pytest.approx(score[f"{model}_loss"], rel=1e-3)
    assert PeftConfig.from_pretrained(tmp_path / "own").r == (8 if way == "products" else 4)
    assert f"The {model} model of device 1, after round 3" in (tmp_path / "own" / "README.md").read_text()


def test_another_of_its_models(runs: dict[str, Path], world: World, tiny_bert: Path, tmp_path: Path) -> None:
    score = next(line for line in lines(runs["factors"] / "scores.jsonl") if line["round"] == 3 and line["device"] == 0)
    tests = own_tests(runs["factors"], world, 0, tmp_path / "own.csv")
    for model in ("personal", "shared"):
        fedfit("export", runs["factors"], "--device", "0", "--model", model, "--out", tmp_path / model)
        assert score_by_peft(tiny_bert, tmp_path / model, tests)[1] == pytest.approx(score[f"{model}_loss"], rel=1e-3)
    refused("export", runs["ditto"], "--device", "0", "--model", "fused", says=["--model fused", "shared", "personal"])


def spoil(file: Path, damage: str) -> None:
    """Flips a bit of ``file``, cuts it in half, or removes it."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if damage == "flip" else bytes(content[: len(content) // 2]))


def predictions(run: Path, world: World, out: Path, *more: str) -> list[dict[str, str]]:
    answer: Answer = fedfit("predict", run, "--input", world.test, "--output", out, "--quiet", *more)
    assert answer.status == 0, answer.stderr
    return list(csv.DictReader(out.open()))


def test_predictions_are_the_devices_own(runs: dict[str, Path], world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["ditto"], run)
    shared = predictions(run, world, tmp_path / "shared.csv")
    own = [predictions(run, world, tmp_path / f"{device}.csv", "--device", str(device)) for device in (0, 1)]
    assert own[0] != own[1] != shared
    kept = run / "device-adapters" / "device-000001-own"
    before = (kept / "adapter_model.safetensors").stat().st_mtime_ns
    assert predictions(run, world, tmp_path / "again.csv", "--device", "1") == own[1]
    assert (kept / "adapter_model.safetensors").stat().st_mtime_ns == before, "it is not made twice"
    texts = [f"{row['text']}" for row in csv.DictReader(world.test.open())]
    assert [each.label for each in load(run).predict(texts, device=1)] == [row["prediction"] for row in own[1]]
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("rounds = 3", "rounds = 5"))
    assert fedfit("resume", run, "--quiet").status == 0
    assert predictions(run, world, tmp_path / "later.csv", "--device", "1") != own[1], "two rounds later it is another"
    assert (kept / "adapter_model.safetensors").stat().st_mtime_ns != before
    merged = tmp_path / "merged"
    assert fedfit("export", run, "--device", "1", "--merged", merged, "--quiet").status == 0
    assert (merged / "config.json").is_file()


def test_what_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    own, out = runs["ditto"], tmp_path / "out"
    says = ["have no models of their own", "personalization.method", "ditto", "fdlora", "federation.rule", "fedsa_lora"]
    refused("export", runs["none"], "--device", "0", "--out", out, says=says)
    refused("export", own, "--device", "7", "--out", out, says=["--device 7", "the devices 0 to 2"])
    refused("export", own, says=["--merged DIR", "--device K"])
    refused("export", own, "--merged", out, "--model", "personal", says=["add --device"])
    refused(
        "export", runs["fedalt"], "--device", "0", "--out", out, says=["each token or text", "no plain adapter", "scores.jsonl"]
    )
    (out / "mine").mkdir(parents=True)
    refused("export", own, "--device", "0", "--out", out, says=["holds files already", "--out"])
    refused("predict", runs["none"], "--input", own / "recipe.toml", "--format", "csv", "--device", "0", says=["error"])


def test_places_are_looked_at_before_anything_is_written(runs: dict[str, Path], tmp_path: Path) -> None:
    full, out = tmp_path / "full", tmp_path / "out"
    full.mkdir()
    (full / "mine").write_text("")
    refused("export", runs["ditto"], "--device", "0", "--out", out, "--merged", full, says=["holds files already", "--merged"])
    refused("export", runs["ditto"], "--device", "0", "--out", full / "mine", says=["is a file", "--out"])
    assert not out.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "made_of.json"])
def test_a_kept_adapter_that_is_damaged_is_made_anew(
    name: str, damage: str, runs: dict[str, Path], world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["ditto"], run)
    before = predictions(run, world, tmp_path / "before.csv", "--device", "1")
    kept = run / "device-adapters" / "device-000001-own" / name
    content = kept.read_bytes()
    spoil(kept, damage)
    assert predictions(run, world, tmp_path / "after.csv", "--device", "1") == before
    assert kept.read_bytes() == content


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_kept_adapter_hides_no_damage_to_what_it_was_made_of(
    damage: str, runs: dict[str, Path], world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["ditto"], run)
    predictions(run, world, tmp_path / "before.csv", "--device", "1")
    memory = max((run / "devices" / "device-000001").iterdir())
    spoil(memory, damage)
    says = [memory.name, "device-000001", f"fedfit resume {run} --reset-personal", "--device 1 makes the model of device 1"]
    refused("predict", run, "--input", world.test, "--device", "1", says=says)
    assert predictions(run, world, tmp_path / "other.csv"), "the shared model needs no device"


def test_missing_data_are_named_and_what_they_are_needed_for(tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", tiny_bert)
    with one_thread_only():
        run = world.run(tmp_path / "run", *PLAIN, f"{METHOD}fedper", "federation.rounds=1")
    world.train.rename(tmp_path / "elsewhere.csv")
    refused("export", run, "--device", "1", says=[world.train.name, "--device 1 makes the model", "its data"])


def test_of_a_device_that_has_not_taken_part(
    runs: dict[str, Path], world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told where others keep something; fine-tuning keeps nothing on any device, so there is nothing to tell."""
    some = world.run(tmp_path / "some", *PLAIN, f"{METHOD}ditto", "federation.devices_per_round=1", "federation.rounds=1")
    took_part = {line["device"] for line in lines(some / "devices.jsonl")}
    other = min({0, 1, 2} - took_part)
    for device in (other, *took_part):
        caplog.clear()
        answer = fedfit("export", some, "--device", str(device), "--out", tmp_path / f"of-{device}", "--quiet")
        assert answer.status == 0, answer.stderr
        assert ("keeps nothing of its own yet" in caplog.text) == (device == other)
    caplog.clear()
    assert fedfit("export", runs["fine_tune"], "--device", "1", "--out", tmp_path / "tuned", "--quiet").status == 0
    assert not caplog.text


def test_a_look_at_a_finished_run_leaves_it_as_it_was(runs: dict[str, Path]) -> None:
    before = (runs["none"] / "evaluation.json").read_bytes()
    assert json.loads(before)["round"] == 3
    assert fedfit("evaluate", runs["none"], "--json").status == 0
    assert (runs["none"] / "evaluation.json").read_bytes() == before


def test_damage_is_named(runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit, a cut file and a missing one of a device's memory: the file, and the remedy."""
    for damage in ("flip", "cut", "remove"):
        run = tmp_path / damage
        shutil.copytree(runs["ditto"], run)
        file = max((run / "devices" / "device-000001").iterdir())
        spoil(file, damage)
        says = [file.name, "device-000001", "restore it"]
        refused("export", run, "--device", "1", "--out", tmp_path / "x", says=says)
        refused("resume", run, says=[*says, "--reset-personal"])
        answer = fedfit("resume", run, "--reset-personal", "--quiet")
        assert answer.status == 0, answer.stderr
        assert "device 1 starts anew" in caplog.text
        caplog.clear()
        assert not list((run / "devices").glob("device-000001/*")), "the run is finished: it is forgotten, and not made again"
        assert fedfit("export", run, "--device", "1", "--out", tmp_path / f"{damage}-out", "--quiet").status == 0


def test_whose_memory_was_reset_starts_anew_in_a_later_round(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["ditto"], run)
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("rounds = 3", "rounds = 6"))
    for file in (run / "devices" / "device-000001").iterdir():
        file.unlink()
    assert fedfit("resume", run, "--reset-personal", "--quiet").status == 0
    later = [line for line in lines(run / "devices.jsonl") if line["round"] > 3]
    assert all(line["refused"] is None for line in later)
    assert any(line["device"] == 1 for line in later)


def test_there_must_be_something_to_reset(runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refused("resume", runs["fedsa"], "--reset-personal", says=["--reset-personal", "no method of personalisation"])
    run = tmp_path / "run"
    shutil.copytree(runs["ditto"], run)
    answer = fedfit("resume", run, "--reset-personal", "--quiet")
    assert answer.status == 0
    assert "starts anew" not in caplog.text
