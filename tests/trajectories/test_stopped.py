"""Ctrl-C, an early stop, and going on afterwards."""

import signal
from pathlib import Path

import pytest

from fedfit.errors import RunFolderError
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from tests.trajectories.process import AtStep, fedfit
from tests.trajectories.world import STEPS_A_ROUND, World, finish, lines, outcome, resume, write_texts


def test_ctrl_c_says_how_to_resume(world: World, reference: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    stopped = fedfit(world.command(run), tmp_path / "first", cache, AtStep(STEPS_A_ROUND + 2, signal.SIGINT))
    assert stopped.status == 130
    assert f"stopped; go on with: fedfit resume {run}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [row["round"] for row in lines(run / "rounds.jsonl")] == [0, 1]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    again = fedfit(["resume", str(run)], tmp_path / "second", cache)
    assert again.status == 0, again.stderr
    assert outcome(run) == outcome(reference)


def test_ctrl_c_between_rounds(world: World, reference: Path, tmp_path: Path) -> None:
    """The signal comes while the caller shows a result; the run is closed all the same."""
    session = Session.start(parse_recipe(world.recipe.read_text(), world.overrides), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        _interrupted_at(session, 2)
    session.folder.close()
    assert [row["round"] for row in lines(tmp_path / "run" / "rounds.jsonl")] == [0, 1, 2]
    assert (tmp_path / "run" / "adapter" / "labels.json").is_file()
    assert outcome(resume(tmp_path / "run")) == outcome(reference)


def _interrupted_at(session: Session, number: int) -> None:
    for result in session.results():
        if result.record.round == number:
            raise KeyboardInterrupt


def test_resuming_a_finished_run_changes_nothing(world: World, reference: Path, tmp_path: Path) -> None:
    run = world.run(tmp_path / "run")
    resume(run)
    assert outcome(run) == outcome(reference)


def test_target_accuracy_stops_early(world: World, reference: Path, tmp_path: Path) -> None:
    """Rounds up to the first that reaches it are those of the run without a target."""
    rows = lines(reference / "rounds.jsonl")
    accuracies = [row["test_accuracy"] for row in rows]
    reached = next(number for number, accuracy in enumerate(accuracies) if accuracy > accuracies[0])
    target = accuracies[reached]
    assert reached < 3, "the test needs a target that is reached before the last round"
    run = world.run(tmp_path / "run", f"training.target_accuracy={target}")
    assert [row["test_accuracy"] for row in lines(run / "rounds.jsonl")] == accuracies[: reached + 1]
    resume(run)
    assert len(lines(run / "rounds.jsonl")) == reached + 1, "a run that has reached its target is finished"


def test_more_rounds_by_the_recipe_in_the_folder(world: World, reference: Path, tmp_path: Path) -> None:
    """Two rounds, then three: the same as three at once, since the rate is constant."""
    run = world.run(tmp_path / "run", "federation.rounds=2")
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("\nrounds = 2", "\nrounds = 3"))
    assert outcome(resume(run)) == outcome(reference)


@pytest.mark.parametrize("which", ["train", "test"])
def test_changed_data_cannot_go_on(which: str, world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(getattr(world, which).read_bytes())
    run = world.run(tmp_path / "run", f"data.{which}={copy}", "federation.rounds=1")
    before = outcome(run)
    write_texts(copy, 45 if which == "train" else 30, seed=99)
    with pytest.raises(
        RunFolderError, match=r"cannot go on.*\n  the data, .* are not those .* began with\nrestore it, or start anew"
    ):
        resume(run)
    assert outcome(run) == before
    copy.write_bytes(getattr(world, which).read_bytes())
    resume(run)  # and nobody holds the folder


def test_renamed_labels_are_changed_data(world: World, tmp_path: Path) -> None:
    """The numbers stay the same: art becomes arts, which sorts where art did."""
    copies = {which: tmp_path / f"{which}.csv" for which in ("train", "test")}
    for which, copy in copies.items():
        copy.write_bytes(getattr(world, which).read_bytes())
    paths = [f"data.{which}={copy}" for which, copy in copies.items()]
    run = world.run(tmp_path / "run", *paths, "federation.rounds=1")
    for copy in copies.values():
        copy.write_text(copy.read_text().replace(",art\r\n", ",arts\r\n").replace(",art\n", ",arts\n"))
    with pytest.raises(RunFolderError, match="the data, their labels or their partition are not those"):
        resume(run)


def test_damaged_newest_checkpoint_costs_one_round(
    world: World, reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.run(tmp_path / "run")
    newest = run / "checkpoints" / "round-000003.checkpoint"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1  # one bit of one weight, which safetensors itself would not notice
    newest.write_bytes(damaged)
    session = Session.resume(run)
    assert session.last is not None
    assert session.last.record.round == 2
    assert "round-000003.checkpoint is damaged" in caplog.text
    assert outcome(finish(session)) == outcome(reference)
