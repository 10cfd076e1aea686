"""A sweep runs every run once, even if stopped in between, and never overwrites a run of another recipe."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfit.errors import RecipeError, RunFolderError
from fedfit.sweeps.runner import Progress
from fedfit.sweeps.sweep import Sweep
from tests.sweeps.conftest import SEEDS, make_sweep, run_sweep
from tests.trajectories.world import World, outcome

FOLDERS = ["last-2-layers-1-seed0", "last-2-layers-4-seed0", "last-2-layers-1-seed1", "last-2-layers-4-seed1"]
"""Run folders in the order of execution: all share one trunk, so seed by seed."""


def outcomes(out: Path) -> dict[str, object]:
    return {folder.name: outcome(folder) for folder in sorted((out / "runs").iterdir())}


def copy(done: Path, target: Path) -> Path:
    return Path(shutil.copytree(done, target))


def test_every_point_and_seed_has_its_own_run_folder(done: Path) -> None:
    assert sorted(outcomes(done)) == sorted(FOLDERS)


def test_a_seed_changes_the_run_and_a_point_changes_its_key(sweep: Sweep) -> None:
    runs = {run.folder: run.recipe for run in sweep.runs()}
    assert list(runs) == FOLDERS
    assert [(recipe.seed, recipe.adapter.rank) for recipe in runs.values()] == [(0, 1), (0, 4), (1, 1), (1, 4)]


def test_progress_counts_every_round_once(sweep: Sweep, tmp_path: Path) -> None:
    """2 points × 2 seeds × rounds 0 to 3 are 16 rounds; each run is announced before its first round."""
    seen = list(run_sweep(sweep, tmp_path))
    assert [(step.run, step.round, step.done) for step in seen[:5]] == [
        (1, None, 0),
        (1, 0, 1),
        (1, 1, 2),
        (1, 2, 3),
        (1, 3, 4),
    ]
    assert [step.done for step in seen if step.round is not None] == list(range(1, 17))
    assert {(step.runs, step.total, step.rounds) for step in seen} == {(4, 16, 3)}
    assert all((step.value is None) == (step.round is None) for step in seen)


@pytest.mark.parametrize("steps", [3, 7, 11])
def test_stopped_and_resumed_is_as_never_stopped(sweep: Sweep, done: Path, tmp_path: Path, steps: int) -> None:
    """Stops after round 1 of the first run, in the second run, and at the announcement of the third."""
    stream = run_sweep(sweep, tmp_path)
    for _ in range(steps):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    rest = [step.round for step in run_sweep(sweep, tmp_path)]
    assert None in rest
    assert outcomes(tmp_path) == outcomes(done)


def test_killed_between_a_folder_and_its_recipe(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """The folder has the lock and its first files, but no checkpoint to resume from."""
    broken = copy(done, tmp_path / "out") / "runs" / FOLDERS[1]
    for item in broken.iterdir():
        if item.name not in (".lock", "environment.json"):
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    list(run_sweep(sweep, tmp_path / "out"))
    assert outcomes(tmp_path / "out") == outcomes(done)


def test_killed_before_the_last_checkpoint(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """The last round has a line, but does not count without its checkpoint."""
    out = copy(done, tmp_path / "out")
    (out / "runs" / FOLDERS[0] / "checkpoints" / "round-000003.checkpoint").unlink()
    steps = [step.round for step in run_sweep(sweep, out) if step.run == 1]
    assert steps == [None, 2, 3]
    assert outcomes(out) == outcomes(done)


def test_finished_runs_are_not_run_again(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    out = copy(done, tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    steps = list(run_sweep(sweep, out))
    expected = [Progress(number + 1, 4, name, 3, 3, None, 4 * number + 4, 16) for number, name in enumerate(FOLDERS)]
    assert steps == expected
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files


def test_more_seeds_add_runs_and_leave_the_others(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    out = copy(done, tmp_path / "out")
    announced = [step.name for step in run_sweep(sweep.with_seeds(SEEDS + 1), out) if step.round is None]
    assert announced == ["last-2-layers-1-seed2", "last-2-layers-4-seed2"]


def test_another_recipe_is_refused_before_anything_runs(world: World, done: Path, tmp_path: Path) -> None:
    """All 4 runs would have 5 rounds in place of 3; seed 2, which has no folder yet, must not start."""
    out = copy(done, tmp_path / "out")
    with pytest.raises(RunFolderError) as error:
        next(run_sweep(make_sweep(world, rounds=5).with_seeds(SEEDS + 1), out))
    said = str(error.value)
    assert "federation.rounds was 3 and is now 5" in said
    assert "and 3 other runs" in said
    assert "another --out" in said
    assert "--force" in said
    assert sorted(outcomes(out)) == sorted(FOLDERS)


def test_force_replaces_only_runs_of_another_recipe(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """The point of rank 4 gets another learning rate; the point of rank 1 stays."""
    out = copy(done, tmp_path / "out")
    low, high = sweep.points
    changed = replace(sweep, points=(low, replace(high, overrides=(*high.overrides, "training.learning_rate=0.02"))))
    announced = [step.name for step in run_sweep(changed, out, force=True) if step.round is None]
    assert announced == [FOLDERS[1], FOLDERS[3]]
    before, after = outcomes(done), outcomes(out)
    assert [before[name] == after[name] for name in FOLDERS] == [True, False, True, False]


def test_a_fault_of_the_last_point_is_raised_before_the_first_runs(world: World, tmp_path: Path) -> None:
    """The model's matrices have 32 rows, so a rank of 64 is impossible."""
    with pytest.raises(RecipeError, match=r"adapter\.rank = 64"):
        next(run_sweep(make_sweep(world, ranks=(1, 64)), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def embeddings() -> int:
    """The number of embeddings of all models in memory."""
    return sum(type(item) is torch.nn.Embedding for item in gc.get_objects())


def test_one_model_is_in_memory_at_a_time(sweep: Sweep, tmp_path: Path) -> None:
    """When a run is announced, the previous run's model has been freed."""
    gc.collect()
    gc.disable()  # so that the runner must free models itself
    before = embeddings()
    try:
        alive = [(step.round is None, embeddings() - before) for step in run_sweep(sweep.with_seeds(1), tmp_path)]
    finally:
        gc.enable()
    assert {count for announced, count in alive if announced} == {0}
    assert min(count for announced, count in alive if not announced) > 0


def test_runs_of_one_trunk_are_together(sweep: Sweep) -> None:
    """Four points alternate between two trunks: the runs of each trunk follow one another, seed by seed."""
    specs = ["last:1", "last:2", "last:1", "last:2"]
    points = tuple(
        replace(sweep.points[0], x=place, overrides=(f'adapter.layers="{layers}"',)) for place, layers in enumerate(specs)
    )
    order = [(run.recipe.adapter.layers, run.seed, run.point.x) for run in replace(sweep, points=points).runs()]
    assert order == [
        ("last:1", 0, 0), ("last:1", 0, 2), ("last:1", 1, 0), ("last:1", 1, 2),
        ("last:2", 0, 1), ("last:2", 0, 3), ("last:2", 1, 1), ("last:2", 1, 3),
    ]  # fmt: skip
