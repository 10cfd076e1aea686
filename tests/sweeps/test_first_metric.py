"""The metric of a sweep that names none, held to the one that a run of each task writes into its folder."""

import json
from pathlib import Path

import pytest

from fedfit.data.sources import load_tables
from fedfit.data.table import Tables
from fedfit.data_settings import DataSettings
from fedfit.errors import ComponentError, DataError, RecipeError
from fedfit.sweeps.first_metric import first_metric
from fedfit.sweeps.grid import parse_grid
from tests.cli.command import fedfit, refused
from tests.experiment.test_own_components import code_of
from tests.trajectories.asking import COLUMNS, RECIPE, TASKS, Asking
from tests.trajectories.world import RECIPE as CLASSES
from tests.trajectories.world import World, lines

RANKS = "adapter.rank=1,2"


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Asking:
    return Asking.make(tmp_path_factory.mktemp("asking"), tiny_models["llama"])


def recipe_of(asking: Asking, task: str) -> str:
    return RECIPE.format(model=asking.model, folder=asking.folder) + TASKS[task]


@pytest.mark.parametrize(
    ("task", "more", "expected"),
    [
        ("instruction", (), "answer_accuracy"),
        ("instruction", ("data.answer=",), "perplexity"),
        ("preference", (), "preference_accuracy"),
        ("language_modelling", (), "perplexity"),
    ],
)
def test_of_a_language_model(asking: Asking, task: str, more: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    words = [word for word in COLUMNS[task] if not word.startswith(more)]  # those of `more` take a key out again
    assert first_metric(recipe_of(asking, task), parse_grid([*words, RANKS])) == expected
    run = asking.run(task, tmp_path / "run", *more, rounds=0)
    assert json.loads((run / "task.json").read_text())["headline"] == expected
    assert f"test_{expected}" in lines(run / "rounds.jsonl")[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], "accuracy"), (['task.metrics=["mcc","accuracy"]'], "mcc"), (["task.metrics=[]"], "loss")],
)
def test_of_a_classifier(world: World, words: list[str], expected: str) -> None:
    assert first_metric(CLASSES, parse_grid([*world.overrides, *words, RANKS])) == expected


def test_the_command_takes_it_unless_another_is_named(asking: Asking, tmp_path: Path) -> None:
    recipe, out = tmp_path / "asking.toml", tmp_path / "out"
    recipe.write_text(recipe_of(asking, "preference"))
    call: list[str | Path] = [
        "sweep",
        recipe,
        *COLUMNS["preference"],
        RANKS,
        "federation.rounds=1",
        "--out",
        out,
        "--json",
        "--quiet",
    ]
    assert fedfit(*call).json["metric"] == "preference_accuracy"
    assert "| test preference accuracy, % |" in (out / "table.md").read_text()
    assert fedfit(*call, "--metric", "kl").json["metric"] == "kl"
    assert "| test kl |" in (out / "table.md").read_text()


def test_cells_that_lead_with_different_metrics_need_one_by_name(world: World) -> None:
    grid = parse_grid([*world.overrides, 'task.metrics=["mcc"],["accuracy"]'])
    with pytest.raises(RecipeError, match=r"--metric = None: the cells .* \(mcc, accuracy\); name one that all measure"):
        first_metric(CLASSES, grid)


def test_data_are_read_once_for_cells_that_differ_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[DataSettings] = []

    def spied(settings: DataSettings) -> Tables:
        read.append(settings)
        return load_tables(settings)

    monkeypatch.setattr("fedfit.sweeps.first_metric.load_tables", spied)
    first_metric(CLASSES, parse_grid([*world.overrides, RANKS, "data.train_samples=9,12", "data.max_tokens=8,16"]))
    assert len(read) == 1


def test_faults_are_reported_before_data_are_read(world: World, tmp_path: Path) -> None:
    def found(*words: str) -> str:
        return first_metric(CLASSES, parse_grid([*world.overrides, *words]))

    with pytest.raises(RecipeError, match=r"task\.kind = 'instruct': did you mean 'instruction'"):
        found("task.kind=instruct", RANKS)
    refused("sweep", world.recipe, *world.overrides[1:], "data.train=nowhere.csv", RANKS, says=["data.train = 'nowhere.csv'"])
    (tmp_path / "empty.csv").write_text("text,label\n")
    grid = parse_grid([f"data.train={tmp_path / 'empty.csv'}", *world.overrides[1:], RANKS])
    with pytest.raises(DataError, match=r"empty\.csv"):
        first_metric(CLASSES, grid)


def own_task(folder: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> str:
    """A recipe whose task is that of the page on extending, and ``more``."""
    (folder / "mine_task.py").write_text(code_of("mine_task") + more)
    monkeypatch.chdir(folder)
    return CLASSES + '[task]\nkind = "mine_task:ENTRY"\n'


def test_of_a_task_of_ones_own(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = own_task(tmp_path, monkeypatch, '\nTopTwoClassification.headline = "top_2"\n')
    assert first_metric(text, parse_grid([*world.overrides, RANKS])) == "top_2"


def test_a_fault_of_a_task_of_ones_own_is_told_apart(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = own_task(tmp_path, monkeypatch, "\nENTRY = TaskEntry(lambda settings, corpus: {}['x'])\n")
    with pytest.raises(ComponentError, match="the task mine_task:ENTRY failed before the first run: KeyError: 'x'; nothing"):
        first_metric(text, parse_grid([*world.overrides, RANKS]))
