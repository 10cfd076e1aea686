"""A comparison end to end on a tiny federation: search, choice, main runs, stopping, and written files."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.errors import RecipeError, RunFolderError
from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.comparison_pages import finished_part, write_comparison
from fedfit.sweeps.comparison_run import comparison_stages, rates_found
from fedfit.sweeps.runner import Progress, run_stages
from tests.sweeps.conftest import SEEDS
from tests.trajectories.world import RECIPE, World, outcome

ROUNDS = 2
SEARCH_SEED = 1000
EASY, HARD = Case("csv", 5.0), Case("csv", 1.0)
WRITTEN = [
    "tiny.png", "tiny.svg", "table.md", "tiny.csv", "tiny-summary.csv", "tiny-rounds.csv", "rates.csv", "verdicts.md",
    "settings.md",
]  # fmt: skip


def make_comparison(world: World, rounds: int = ROUNDS, rates: tuple[float, ...] = (1e-5, 1e-2)) -> Comparison:
    """A comparison of mixed ranks without a plan, one rank with a plan, and all data on one device; two cases of a data set."""
    base, _, planned = RECIPE.partition("[plan]\n")
    overrides = [line.replace(" ", "") for line in planned.splitlines() if "=" in line]
    plan = tuple(
        f"{section}.{key}" for section, key in zip(("plan",) * 2 + ("fleet",) * 5 + ("channel",), overrides, strict=True)
    )
    base = base.replace("[data]\n", f'[data]\ntrain = "{world.train}"\ntest = "{world.test}"\n')
    base = base.replace("rounds = 3", f"rounds = {rounds}")
    base += f'[model]\nname = "{world.overrides[2].partition("=")[2]}"\n[partition]\nkind = "dirichlet"\n'
    methods = (
        Method("sketches", ('federation.rule="fslora"', "federation.ranks={choice=[1,2]}")),
        Method("one rank", plan),
        Method("all in one", ("federation.devices=1", "federation.devices_per_round=1", 'partition.kind="iid"'), sends=False),
    )
    claims = (Claim("one rank above sketches", "nobody", (("one rank", "sketches"),)),)
    return Comparison(
        "tiny", "A tiny comparison", "tiny", base, methods, (HARD, EASY), rates, EASY.alpha, SEARCH_SEED, {"csv": 0.5}, claims,
        seeds=tuple(range(SEEDS)),
    )  # fmt: skip


def run_comparison(comparison: Comparison, out: Path, *, force: bool = False) -> Iterator[Progress]:
    return run_stages(list(comparison_stages(comparison, out)), force=force)


@pytest.fixture(scope="module")
def comparison(world: World) -> Comparison:
    return make_comparison(world)


@pytest.fixture(scope="module")
def finished(comparison: Comparison, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished comparison, run without a stop; tests must not change it."""
    out = tmp_path_factory.mktemp("comparison")
    list(run_comparison(comparison, out))
    return out


def outcomes(out: Path) -> dict[str, object]:
    return {str(path.parent.relative_to(out)): outcome(path.parent) for path in sorted(out.rglob("recipe.toml"))}


def copy(finished: Path, target: Path) -> Path:
    return Path(shutil.copytree(finished, target))


def accuracies(run: Path) -> list[float]:
    return [json.loads(line)["test_accuracy"] for line in (run / "rounds.jsonl").read_text().splitlines()]


def test_the_search_and_every_case_have_their_run_folders(finished: Path) -> None:
    methods = ("sketches", "one-rank", "all-in-one")
    searched = {f"search/csv/runs/{m}-{rate}-seed{SEARCH_SEED}" for m in methods for rate in ("1e-05", "0.01")}
    main = {f"{case}/runs/{m}-seed{seed}" for case in ("csv-1", "csv-5") for m in methods for seed in range(SEEDS)}
    assert set(outcomes(finished)) == searched | main


def test_main_runs_have_the_best_rate_of_the_search(comparison: Comparison, finished: Path) -> None:
    """Read from the folders: the rate with the better last round. 1e-5 hardly changes the model, so some method takes 1e-2."""
    rates = rates_found(comparison, "csv", finished)
    for method, slug in (("sketches", "sketches"), ("one rank", "one-rank"), ("all in one", "all-in-one")):
        low, high = (
            accuracies(finished / "search" / "csv" / "runs" / f"{slug}-{r}-seed{SEARCH_SEED}")[-1] for r in ("1e-05", "0.01")
        )
        best = 1e-2 if high > low else 1e-5
        assert rates is not None
        assert rates[method] == best
        runs = comparison.main(HARD, rates).runs()
        assert {run.recipe.training.learning_rate for run in runs if run.point.line == method} == {best}
    assert 1e-2 in (rates or {}).values()


def test_progress_is_one_count_over_search_and_main_runs(comparison: Comparison, tmp_path: Path) -> None:
    """3 methods × 2 rates and 3 methods × 1 seed × 2 cases are 12 runs, of rounds 0 to 2: 36."""
    steps = list(run_comparison(comparison.with_seeds(1), tmp_path))
    assert {(step.runs, step.total) for step in steps} == {(12, 36)}
    assert [step.done for step in steps if step.round is not None] == list(range(1, 37))
    assert [step.run for step in steps if step.round is None] == list(range(1, 13))


@pytest.mark.parametrize("stop", [5, 26, 40])
def test_stopped_and_resumed_is_as_never_stopped(comparison: Comparison, finished: Path, tmp_path: Path, stop: int) -> None:
    """The first six runs are the search, of 4 steps each. Stops in its second run, and in the first and the fifth main run."""
    stream = run_comparison(comparison, tmp_path)
    for _ in range(stop):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert outcomes(tmp_path) != outcomes(finished)
    list(run_comparison(comparison, tmp_path))
    assert outcomes(tmp_path) == outcomes(finished)


def test_finished_runs_are_not_run_again(comparison: Comparison, finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert all(step.value is None for step in run_comparison(comparison, out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files


def test_another_recipe_is_refused_before_anything_runs(world: World, finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "out")
    with pytest.raises(RunFolderError, match=r"federation\.rounds was 2 and is now 3"):
        next(run_comparison(make_comparison(world, rounds=3), out))


def test_another_choice_of_rate_is_refused_unless_forced(comparison: Comparison, finished: Path, tmp_path: Path) -> None:
    """A change of the searched rates after the main runs: the search now chooses another rate than one method's runs have."""
    out = copy(finished, tmp_path / "out")
    changed = replace(comparison, rates=(1e-5,))
    with pytest.raises(RunFolderError, match=r"training\.learning_rate was 0\.01 and is now 1e-05"):
        next(run_comparison(changed, out))
    announced = {step.name.split()[0] for step in run_comparison(changed, out, force=True) if step.round is None}
    assert announced == {"csv-1", "csv-5"}


def test_a_fault_of_the_main_runs_is_raised_before_the_search(comparison: Comparison, tmp_path: Path) -> None:
    """Only one case has the fault; the search alone would not find it."""
    wrong = replace(comparison, cases=(EASY, Case("csv", -1.0)))
    with pytest.raises(RecipeError, match=r"partition\.alpha = -1\.0"):
        next(run_comparison(wrong, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_everything_is_written_and_written_again_identically(comparison: Comparison, finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "out")
    written = write_comparison(comparison, out)
    assert [path.name for path in written] == WRITTEN
    before = {path: path.read_bytes() for path in written}
    assert write_comparison(comparison, out) == written
    assert {path: path.read_bytes() for path in written} == before
    drawing = (out / "tiny.svg").read_text()
    assert "csv, α = 1" in drawing
    assert "all in one, last round" in drawing
    lines = list(csv.DictReader((out / "tiny.csv").open()))
    assert len(lines) == 2 * 3 * SEEDS
    folder = out / "csv-1" / "runs" / "one-rank-seed1"
    (line,) = [row for row in lines if (row["alpha"], row["method"], row["seed"]) == ("1.0", "one rank", "1")]
    rounds = [json.loads(text) for text in (folder / "rounds.jsonl").read_text().splitlines()]
    assert float(line["final_accuracy"]) == rounds[-1]["test_accuracy"]
    assert float(line["downlink_bytes"]) == sum(row["downlink_bytes"] for row in rounds)
    assert float(line["simulated_j"]) == pytest.approx(sum(row["simulated_j"] or 0 for row in rounds))


def test_results_of_the_finished_cases_alone(comparison: Comparison, finished: Path, tmp_path: Path) -> None:
    out = copy(finished, tmp_path / "out")
    shutil.rmtree(out / "csv-5" / "runs" / "one-rank-seed1")
    with pytest.raises(RunFolderError, match=r"1 of 6 runs are not finished .*csv-5/runs/one-rank-seed1"):
        write_comparison(comparison, out)
    part = finished_part(comparison, out)
    assert part.cases == (HARD,)
    write_comparison(part, out)
    assert {line["alpha"] for line in csv.DictReader((out / "tiny.csv").open())} == {"1.0"}
    shutil.rmtree(out / "search" / "csv" / "runs" / f"one-rank-0.01-seed{SEARCH_SEED}")
    with pytest.raises(RunFolderError, match="no case is finished yet"):
        finished_part(comparison, out)


def test_rates_are_chosen_on_the_validation_part_of_runs_that_have_one(
    comparison: Comparison, finished: Path, tmp_path: Path
) -> None:
    """The search's folders get a validation part that prefers the other rate than the test rows."""
    out = copy(finished, tmp_path / "out")
    for slug, value in (("1e-05", 0.9), ("0.01", 0.1)):
        log = out / "search" / "csv" / "runs" / f"one-rank-{slug}-seed{SEARCH_SEED}" / "rounds.jsonl"
        lines = [json.loads(line) | {"validation_accuracy": value} for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before, after = (rates_found(comparison, "csv", folder) or {} for folder in (finished, out))
    assert (before["one rank"], after["one rank"]) == (1e-2, 1e-5)
    assert before["sketches"] == after["sketches"]
