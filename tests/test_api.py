"""The Python API: what a notebook does with a run, and the words that it gets for a mistake."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import fedfit
from fedfit import api
from fedfit.errors import FedfitError, RecipeError, RunFolderError
from tests.trajectories.asking import Asking
from tests.trajectories.world import World, lines, one_thread_only, outcome

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="module")
def result(world: World) -> api.Run:
    with one_thread_only():
        return api.run(str(world.recipe), *world.overrides, out=world.folder / "run")


def test_the_package_has_the_api() -> None:
    assert [getattr(fedfit, name) for name in ("run", "stream", "resume", "load", "plan", "Run")] == [
        *(api.run, api.stream, api.resume, api.load, api.plan, api.Run)
    ]
    assert {"run", "plan", "load"} <= set(dir(fedfit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fedfit.nothing  # noqa: B018


def test_what_a_run_returns(world: World, result: api.Run) -> None:
    rows = lines(result.path / "rounds.jsonl")
    assert [record.to_json() for record in result.rounds] == rows
    assert [record.to_json() for record in result.devices] == lines(result.path / "devices.jsonl")
    assert result.final == {name: rows[-1][f"test_{name}"] for name in ("accuracy", "macro_f1", "loss")}
    assert result.frame()["test_accuracy"].tolist() == [row["test_accuracy"] for row in rows]
    assert (result.adapter / "adapter_model.safetensors").is_file()


def test_a_run_of_the_api_is_one_of_the_command(world: World, result: api.Run, tmp_path: Path) -> None:
    with one_thread_only():
        assert outcome(world.run(tmp_path / "run")) == outcome(result.path)


def test_figures_and_report(result: api.Run, tmp_path: Path) -> None:
    shutil.copytree(result.path, tmp_path / "run")
    written = api.load(tmp_path / "run").figures()
    assert written[-1] == tmp_path / "run" / "report.html"
    assert all(path.is_file() for path in written)


def test_predictions_give_the_measured_accuracy(world: World, result: api.Run) -> None:
    test = pd.read_csv(world.test)
    labels = [prediction.label for prediction in result.predict(test["text"].tolist())]
    assert (test["label"] == labels).mean() == pytest.approx(result.final["accuracy"], abs=1e-9)
    assert result.predict([]) == []


def test_a_stream_that_is_left_goes_on_to_the_same_end(world: World, result: api.Run, tmp_path: Path) -> None:
    with one_thread_only():
        stream = api.stream(str(world.recipe), *world.overrides, out=tmp_path / "run")
        for each in stream:
            assert lines(tmp_path / "run" / "rounds.jsonl")[-1]["round"] == each.record.round, "it is on disk"
            if each.record.round == 1:
                break
        assert [record.round for record in stream.run.rounds] == [0, 1]
        assert (stream.run.adapter / "adapter_model.safetensors").is_file()
        resumed = api.resume(stream.run.path)
        assert outcome(resumed.path) == outcome(result.path)
        assert outcome(api.resume(resumed.path).path) == outcome(result.path)


def test_a_folder_in_the_way(world: World, result: api.Run) -> None:
    """The remedies are those of Python, not of the command line."""
    with pytest.raises(RunFolderError, match="exists already") as caught:
        api.run(str(world.recipe), *world.overrides, out=result.path)
    for remedy in ("out=…", f'fedfit.resume("{result.path}")', "force=True"):
        assert remedy in str(caught.value)
    assert "--" not in str(caught.value)
    with pytest.raises(RunFolderError, match=r"not of a run; give another out=…$"):
        api.run(str(world.recipe), *world.overrides, out=world.folder)


def test_a_run_goes_to_runs_by_the_name_of_the_recipe(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [*world.overrides, "name=mine", "federation.rounds=1"]
    assert api.run(str(world.recipe), *keys).path == Path("runs/mine")
    assert api.run(str(world.recipe), *keys, "seed=1", force=True).path == Path("runs/mine")


@pytest.mark.parametrize("call", [api.load, api.resume])
def test_a_folder_that_is_no_run(call: object, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder, it lacks recipe.toml"):
        call(tmp_path)  # type: ignore[operator]


def test_mistakes_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(FedfitError, match="did you mean"):
        api.run("demmo", out=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"federation.ruls"):
        api.stream("demo", "federation.ruls=2", out=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"polcy = 'common': did you mean 'policy'\?"):
        api.plan("three-devices", polcy="common")
    with pytest.raises(RecipeError, match="'per_devic': did you mean 'per_device'"):
        api.plan("three-devices", policy="per_devic")
    assert not (tmp_path / "run").exists()


def test_a_plan() -> None:
    common, own = api.plan("three-devices"), api.plan("three-devices", policy="per_device")
    assert len({device["rank"] for device in common["devices"]}) == 1
    assert max(device["rank"] for device in own["devices"]) >= max(device["rank"] for device in common["devices"])
    assert api.plan("three-devices", "round.deadline_s=1e9") != common


def test_the_code_of_the_page(
    world: World, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line, on tiny recipes in the place of the demos."""
    Asking.make(tmp_path, tiny_models["llama"]).run("instruction", tmp_path / "runs" / "demo-llm", rounds=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pandas.DataFrame.plot", lambda self, **keys: None)
    texts = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(texts) == 5
    first = ", ".join(map(repr, [str(world.recipe), *world.overrides, "name=demo"]))
    code = "".join(texts).replace('"demo"', first).replace("rounds=20", "rounds=3")
    seen: dict[str, object] = {}
    exec(code, seen)
    assert isinstance(seen["same"], api.Run)
    assert [record.round for record in seen["same"].rounds] == [0, 1, 2, 3]


def test_the_api_is_imported_when_it_is_first_asked_for() -> None:
    script = (
        "import sys, fedfit; assert 'fedfit.api' not in sys.modules; fedfit.plan, fedfit.Run\n"
        "assert not {'torch', 'transformers', 'pandas'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
