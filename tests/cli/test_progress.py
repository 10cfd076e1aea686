"""The one bar: it ends full, whether the run is whole or resumed, and tells the accuracy."""

import io
from pathlib import Path

from rich.console import Console

from fedfit.experiment.load import parse_recipe
from fedfit.experiment.session import Session
from fedfit.progress import Bar
from tests.trajectories.world import STEPS_A_ROUND, World, lines


def watched(session: Session, *, hidden: bool = False, stop_after: int = 99) -> tuple[str, list[float]]:
    """What is drawn, and the steps shown after each round."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    steps = []
    with Bar(session, screen, hidden=hidden) as bar:
        for result in session.results():
            bar.show(result)
            steps.append(bar.steps())
            if result.record.round == stop_after:
                break
    session.folder.close()
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue(), steps


def test_steps_and_accuracy(world: World, tmp_path: Path) -> None:
    session = Session.start(parse_recipe(world.recipe.read_text(), world.overrides), tmp_path / "run")
    drawn, steps = watched(session, stop_after=2)
    assert steps == [0, STEPS_A_ROUND, 2 * STEPS_A_ROUND]
    accuracy = lines(tmp_path / "run" / "rounds.jsonl")[-1]["test_accuracy"]
    assert f"accuracy {accuracy:.1%}" in drawn
    assert "round 3/3" in drawn
    resumed, steps = watched(Session.resume(tmp_path / "run"))
    assert steps == [3 * STEPS_A_ROUND]
    assert "untrained" not in resumed
    assert f"accuracy {accuracy:.1%}" in resumed


def test_hidden_draws_nothing(world: World, tmp_path: Path) -> None:
    recipe = parse_recipe(world.recipe.read_text(), [*world.overrides, "federation.rounds=1"])
    drawn, steps = watched(Session.start(recipe, tmp_path / "run"), hidden=True)
    assert (drawn, steps) == ("", [0, STEPS_A_ROUND])
