"""``kill -9`` at any moment, then ``resume``: the same metrics and the same adapter as a run that was never killed."""

import signal
from pathlib import Path

import pytest

from fedfit.errors import RunFolderError
from tests.trajectories.process import AtCacheWrite, AtRename, AtStep, AtSync, Ended, Sabotage, fedfit
from tests.trajectories.world import STEPS_A_ROUND, World, lines, outcome, resume

POINTS: dict[str, Sabotage] = {
    "before round 0 is recorded": AtSync("devices.jsonl", nth=1),
    "in the index of the trunk cache": AtCacheWrite(nth=20),
    "in the data of the trunk cache": AtCacheWrite(nth=21),
    "in the middle of round 1": AtStep(2),
    "in the middle of round 2, on its second device": AtStep(STEPS_A_ROUND + 3),
    "in a line of devices.jsonl": AtSync("devices.jsonl", nth=3),
    "after devices.jsonl, in a line of rounds.jsonl": AtSync("rounds.jsonl", nth=3),
    "both lines written, in the checkpoint": AtSync(r"\.round-000002\.checkpoint\..*", lost_bytes=500),
    "the last checkpoint written, not yet named": AtSync(r"\.round-000003\.checkpoint\..*", lost_bytes=0),
    "the run done, the adapter not yet in place": AtRename(".adapter.part"),
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One trunk cache for the process that is killed and the one that goes on."""
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def killed(arguments: list[str], scratch: Path, cache: Path, point: Sabotage) -> Ended:
    ended = fedfit(arguments, scratch, cache, point)
    assert ended.status == -signal.SIGKILL, ended.stderr
    return ended


@pytest.mark.parametrize("point", POINTS)
def test_resumes_as_if_never_killed(point: str, world: World, reference: Path, own_cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(world.command(run), tmp_path / "first", own_cache, POINTS[point])
    assert outcome(resume(run)) == outcome(reference)
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]


def test_killed_again_and_again(world: World, reference: Path, own_cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(world.command(run), tmp_path / "a", own_cache, AtSync("rounds.jsonl", nth=3))
    rewinding = AtSync(r"\.rounds\.jsonl\..*", lost_bytes=100)
    killed(["resume", str(run)], tmp_path / "b", own_cache, rewinding)
    killed(["resume", str(run)], tmp_path / "c", own_cache, AtStep(STEPS_A_ROUND + 1))
    ended = fedfit(["resume", str(run)], tmp_path / "d", own_cache)
    assert ended.status == 0, ended.stderr
    assert outcome(run) == outcome(reference)
    assert (run / "report.html").is_file()


def test_killed_before_the_recipe_is_there_there_is_nothing_to_resume(world: World, own_cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed(world.command(run), tmp_path / "first", own_cache, AtSync(r"\.recipe\.toml\..*"))
    with pytest.raises(RunFolderError, match=r"is not a run folder, it lacks recipe\.toml"):
        resume(run)
    with pytest.raises(RunFolderError, match="--force"):
        world.run(run)


def test_what_a_kill_leaves_is_a_run_that_can_be_read(world: World, reference: Path, own_cache: Path, tmp_path: Path) -> None:
    """The lines that count are those up to the newest checkpoint, and they are there whole."""
    run = tmp_path / "run"
    killed(world.command(run), tmp_path / "first", own_cache, AtSync(r"\.round-000002\.checkpoint\..*"))
    assert sorted(path.name for path in (run / "checkpoints").glob("round-*")) == [
        "round-000000.checkpoint",
        "round-000001.checkpoint",
    ]
    assert [row["round"] for row in lines(run / "rounds.jsonl")] == [0, 1, 2]
