"""``fedfit sweep`` from arguments to table on a tiny federation, against numbers read from the run folders."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedfit.errors import RecipeError, RunFolderError
from fedfit.sweeps.grid import parse_grid
from fedfit.sweeps.grid_study import grid_study, grid_sweep
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.runner import run_stages
from fedfit.sweeps.study import Study
from tests.cli.command import fedfit, refused
from tests.sweeps.test_runner import outcomes
from tests.trajectories.world import RECIPE, World

ROUNDS = "federation.rounds=2"


def study(world: World, *words: str, metric: str = "accuracy") -> Study:
    return grid_study(RECIPE, parse_grid([*world.overrides, ROUNDS, *words]), metric, "tiny.toml")


def run(found: Study, out: Path) -> Path:
    list(run_stages(list(found.stages(out))))
    return out


def folders(found: Study) -> list[str]:
    (stage,) = found.stages(Path("out"))
    return [item.folder for item in stage.outline.runs()]


WORDS = ("adapter.rank=1,4", "training.learning_rate=1e-2,1e-3", "seed=0..1")


@pytest.fixture(scope="module")
def finished(world: World, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    found = study(world, *WORDS)
    out = run(found, tmp_path_factory.mktemp("grid"))
    found.write(out)
    return found, out


def rounds(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_every_cell_and_seed_is_a_run_folder(finished: tuple[Study, Path]) -> None:
    expected = {f"rank-{r}-learning_rate-1e-{e}-seed{seed}" for r in (1, 4) for e in (2, 3) for seed in (0, 1)}
    assert set(outcomes(finished[1])) == expected


def test_the_table_equals_the_rounds(finished: tuple[Study, Path]) -> None:
    """Two seeds have the mean (a + b)/2 and the deviation |a − b|/√2; bytes are summed over rounds, in millions."""
    _, out = finished
    text = (out / "table.md").read_text()
    for rank in (1, 4):
        for rate, written in (("1e-2", "0.01"), ("1e-3", "0.001")):
            runs = [rounds(out / "runs" / f"rank-{rank}-learning_rate-{rate}-seed{seed}") for seed in (0, 1)]
            a, b = (100 * lines[-1]["test_accuracy"] for lines in runs)
            up = [sum(line["uplink_bytes"] for line in lines) / 1e6 for lines in runs]
            accuracy = f"{(a + b) / 2:.1f} ± {abs(a - b) / math.sqrt(2):.1f}"
            sent = f"{sum(up) / 2:.2f} ± {abs(up[0] - up[1]) / math.sqrt(2):.2f}"
            (line,) = [line for line in text.splitlines() if line.startswith(f"| {rank} | {written} |")]
            assert f"| {accuracy} |" in line
            assert f"| {sent} |" in line


def test_the_csv_has_the_swept_keys_as_columns(finished: tuple[Study, Path]) -> None:
    _, out = finished
    lines = list(csv.DictReader((out / "sweep-tiny.csv").open()))
    assert list(lines[0])[:4] == ["adapter.rank", "training.learning_rate", "seed", "final_accuracy"]
    (line,) = [
        line for line in lines if (line["adapter.rank"], line["training.learning_rate"], line["seed"]) == ("4", "0.01", "1")
    ]
    logged = rounds(out / "runs" / "rank-4-learning_rate-1e-2-seed1")
    assert float(line["final_accuracy"]) == logged[-1]["test_accuracy"]
    assert float(line["simulated_j"]) == pytest.approx(sum(entry["simulated_j"] or 0 for entry in logged))
    summary = list(csv.DictReader((out / "sweep-tiny-summary.csv").open()))
    assert [(line["adapter.rank"], line["n"]) for line in summary] == [("1", "2"), ("1", "2"), ("4", "2"), ("4", "2")]


def test_the_first_key_of_numbers_is_x_and_the_others_name_the_lines(finished: tuple[Study, Path]) -> None:
    drawing = (finished[1] / "sweep-tiny.svg").read_text()
    for words in ("learning_rate = 1e-2", "learning_rate = 1e-3", "adapter.rank", "Test accuracy (%)"):
        assert f"<!-- {words} -->" in drawing


def test_results_are_written_again_identically(finished: tuple[Study, Path]) -> None:
    found, out = finished
    written = found.write(out)
    before = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in found.write(out)} == before


def test_another_metric_is_read_by_its_name(world: World, finished: tuple[Study, Path], tmp_path: Path) -> None:
    """Loss is not a share: it is shown unscaled, with four digits. The run folders are reused."""
    out = Path(shutil.copytree(finished[1], tmp_path / "out"))
    study(world, *WORDS, metric="loss").write(out)
    losses = [rounds(out / "runs" / f"rank-1-learning_rate-1e-2-seed{seed}")[-1]["test_loss"] for seed in (0, 1)]
    text = (out / "table.md").read_text()
    assert "| test loss |" in text
    assert f"| {sum(losses) / 2:.4f} ± {abs(losses[0] - losses[1]) / math.sqrt(2):.4f} |" in text


def test_an_unknown_metric_is_refused_after_round_0(world: World, tmp_path: Path) -> None:
    steps = run_stages(list(study(world, *WORDS, metric="acuracy").stages(tmp_path)))
    with pytest.raises(RecipeError, match=r"--metric = 'acuracy': .* they measure accuracy, macro_f1, loss"):
        list(steps)


def test_a_grid_without_numbers_is_drawn_over_rounds(world: World, tmp_path: Path) -> None:
    found = study(world, "adapter.layers=last:1,last:2")
    names = folders(found)
    assert [name.rpartition("-")[2] for name in names] == ["seed0", "seed0"]
    assert len(set(names)) == 2
    out = run(found, tmp_path)
    drawing = next(path for path in found.write(out) if path.suffix == ".svg").read_text()
    for words in ("layers = last:1", "layers = last:2", "Round"):
        assert f"<!-- {words} -->" in drawing
    assert "| last:1 |" in (out / "table.md").read_text()


def test_a_grid_that_grows_keeps_its_runs(world: World) -> None:
    """A folder's name depends on its cell alone."""
    small, large = (set(folders(study(world, words, "seed=0,1"))) for words in ("adapter.rank=1,4", "adapter.rank=1,2,4"))
    assert small < large


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('adapter.targets=["query"],["query","key"]', 2),
        ("adapter.layers=last:1,last-1", 2),
        (f'training.schedule="{"a" * 200}","{"a" * 199}b"', 2),
    ],
)
def test_cells_never_share_a_folder(one: str, other: int) -> None:
    """Values that look alike after conversion to a folder's name, and values too long for one."""
    slugs = {point.slug for point in grid_sweep(RECIPE, parse_grid([one]), Metric()).points}
    assert len(slugs) == other
    assert all(len(slug) < 200 and "/" not in slug for slug in slugs)


def test_keys_of_equal_last_words_have_their_whole_names_in_folders() -> None:
    grid = parse_grid(["adapter.dropout=0.1,0.2", "training.dropout=true,false"])
    slugs = [point.slug for point in grid_sweep(RECIPE, grid, Metric()).points]
    assert slugs[0] == "adapter.dropout-0.1-training.dropout-true"


def test_a_wrong_key_is_reported_before_anything_runs(world: World) -> None:
    with pytest.raises(RecipeError, match=r"federation\.rank = 4: unknown key; did you mean .*adapter\.rank"):
        study(world, "federation.rank=4,8")
    refused("sweep", world.recipe, "adapter.rank=4,eight", says=["adapter.rank = 'eight': must be a whole number"])


def test_stopped_between_cells_and_resumed_is_as_never_stopped(
    world: World, finished: tuple[Study, Path], tmp_path: Path
) -> None:
    found, whole = finished
    steps = run_stages(list(found.stages(tmp_path)))
    for step in steps:
        if step.run == 3 and step.round is None:  # two runs are done, the third is announced
            break
    steps.close()  # type: ignore[attr-defined]
    assert len(outcomes(tmp_path)) == 2
    run(found, tmp_path)
    assert outcomes(tmp_path) == outcomes(whole)


def test_killed_for_good_between_cells_and_resumed_is_as_never_killed(
    world: World, finished: tuple[Study, Path], tmp_path: Path
) -> None:
    """SIGKILL once the second run folder exists: the process cannot clean up."""
    out, log = tmp_path / "out", tmp_path / "log"
    command = [
        sys.executable,
        "-c",
        "from fedfit.cli import app; app()",
        "sweep",
        str(world.recipe),
        *world.overrides,
        ROUNDS,
        *WORDS,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as errors:
        process = subprocess.Popen([*command, "--out", str(out), "--quiet"], env=environment, stderr=errors, stdout=errors)
        try:
            deadline = time.monotonic() + 120
            while len(list(out.glob("runs/*/recipe.toml"))) < 2:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    with pytest.raises(RunFolderError, match="runs are not finished with this recipe"):
        study(world, *WORDS).write(out)
    result = fedfit("sweep", world.recipe, *world.overrides, ROUNDS, *WORDS, "--out", out, "--json", "--quiet")
    assert result.json["metric"] == "accuracy"
    assert outcomes(out).keys() == outcomes(finished[1]).keys()
    lines = [list(csv.DictReader((folder / "sweep-tiny.csv").open())) for folder in (out, finished[1])]
    ours, theirs = ([without_time(line) for line in table] for table in lines)
    assert ours == theirs


def without_time(line: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in line.items() if key != "wall_s"}


def test_the_command_reports_the_faults_of_a_grid(world: World) -> None:
    refused("sweep", world.recipe, "adapter.rank=8..4", says=["the sweep has 1 fault", "write 4..8"])
