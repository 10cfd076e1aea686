"""What a run folder says of its task, of each device's scores, and of the final model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfit.data.corpus import TextSet
from fedfit.errors import RunFolderError
from fedfit.experiment.details import LONGEST_TEXT, quoted
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from fedfit.records import DeviceScore
from fedfit.rounds.evaluate import summary
from fedfit.tracking.lines import Lines
from tests.trajectories.process import AtSync, fedfit
from tests.trajectories.world import World, lines, resume

OWN = ("evaluation.models=both", "evaluation.device_test_share=0.3")


def evaluation(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def own(world: World, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose devices have test rows of their own."""
    return world.run(tmp_path_factory.mktemp("own") / "run", *OWN)


def test_the_task_is_described(reference: Path) -> None:
    task = json.loads((reference / "task.json").read_text())
    assert (task["kind"], task["headline"], task["labels"]) == ("classification", "accuracy", ["art", "law", "sport"])
    assert {name: metric["higher_is_better"] for name, metric in task["metrics"].items()} == {
        "accuracy": True, "macro_f1": True, "loss": False,
    }  # fmt: skip


def test_the_final_model_is_looked_at_closer(reference: Path, world: World) -> None:
    """The confusion matrix repeats the last round's accuracy and macro-F1; errors quote the file's own texts."""
    found, last = evaluation(reference), lines(reference / "rounds.jsonl")[-1]
    assert (found["round"], found["set"], found["samples"]) == (3, "test", 30)
    right = sum(found["confusion"][number][number] for number in range(3))
    assert right / 30 == last["test_accuracy"]
    assert sum(item["f1"] for item in found["classes"]) / 3 == pytest.approx(last["test_macro_f1"])
    rows = world.test.read_text().splitlines()[1:]
    assert found["errors"]
    for error in found["errors"]:
        assert rows[error["row"]] == f"{error['text']},{error['true']}"
        assert error["true"] != error["predicted"]


def test_scores_of_devices_are_written(own: Path) -> None:
    """Each round's scores have the mean, worst and spread of its record."""
    scores = Lines(own / "scores.jsonl", DeviceScore).read()
    assert [(score.round, score.device) for score in scores] == [(count, device) for count in range(4) for device in range(3)]
    for row in lines(own / "rounds.jsonl"):
        found = summary([score for score in scores if score.round == row["round"]])
        assert {name: metric.value for name, metric in found.items()} == {
            name: value for name, value in row.items() if name.startswith("shared_")
        }


def test_devices_with_models_of_their_own_have_no_evaluation_of_a_global_one(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "run", "federation.rule=fedsa_lora", "plan.policy=fixed", *OWN)
    assert not (run / "evaluation.json").exists()
    assert "personal_accuracy" in lines(run / "scores.jsonl")[-1]


@pytest.mark.parametrize("file", ["scores.jsonl", "evaluation.json"])
def test_a_killed_run_ends_with_the_same_files(file: str, own: Path, world: World, tmp_path: Path) -> None:
    """Killed while it writes: in a line of the third round's scores, or in the closer look at the end."""
    run = tmp_path / "run"
    point = AtSync(r"scores\.jsonl", nth=3) if file == "scores.jsonl" else AtSync(r"\.evaluation\.json\..*", lost_bytes=0)
    assert fedfit(world.command(run, *OWN), tmp_path / "scratch", tmp_path / "cache", point).status < 0
    assert not (run / "evaluation.json").exists()
    resume(run)
    for name in ("scores.jsonl", "evaluation.json"):
        assert (run / name).read_bytes() == (own / name).read_bytes(), name


def test_an_unfinished_run_has_no_evaluation(world: World, tmp_path: Path) -> None:
    recipe = parse_recipe(world.recipe.read_text(), world.overrides)
    session = Session.start(recipe, tmp_path / "run")
    for result in session.results():
        if result.record.round == 2:
            break
    session.folder.close()
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert (resume(tmp_path / "run") / "evaluation.json").exists()


def test_a_run_that_goes_on_has_no_evaluation_of_its_former_end(reference: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nrounds = 3", "\nrounds = 4"))
    session = Session.resume(run)
    for _ in session.results():
        assert not (run / "evaluation.json").exists()
    session.folder.close()
    assert evaluation(run)["round"] == 4


def test_lost_scores_are_named(own: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(own, tmp_path / "run"))
    (run / "scores.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"scores\.jsonl is missing"):
        resume(run)


def test_long_texts_are_cut() -> None:
    texts = TextSet({"text": ["a\n b", "x" * 301], "pair": ["p", "q"]}, np.zeros(2, dtype=np.int64))
    assert quoted(texts, 0) == {"text": "a b", "pair": "p"}
    assert quoted(texts, 1)["text"] == "x" * (LONGEST_TEXT - 1) + "…"
