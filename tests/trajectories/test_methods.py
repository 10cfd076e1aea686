"""Every method of personalisation from a recipe to a run folder: a run that was stopped or killed ends the same."""

import signal
from pathlib import Path

import pytest

from fedfit.experiment.load import parse_recipe
from fedfit.personalization.table import METHODS
from tests.trajectories.process import AtStep, fedfit
from tests.trajectories.world import World, lines, outcome, resume, stop_after

OVERRIDES = [
    "adapter.dropout=0.1",
    "plan=",
    "fleet=",
    "channel=",
    "federation.rounds=4",
    "evaluation.device_test_share=0.2",
    "personalization.fdlora.synchronise_every=2",
    "personalization.fdlora.evaluations=6",
]


def overrides(method: str) -> list[str]:
    own = OVERRIDES if method == "fdlora" else [words for words in OVERRIDES if "fdlora" not in words]
    return [*own, f"personalization.method={method}"]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_the_same(method: str, world: World, tmp_path: Path) -> None:
    whole = stopped(world, tmp_path / "whole", method, 4)
    scores = lines(whole / "scores.jsonl")
    assert {score["round"] for score in scores} == set(range(5))
    assert any("personal_accuracy" in score for score in scores)
    for rounds in (1, 3):
        run = stopped(world, tmp_path / f"stopped-{rounds}", method, rounds)
        assert outcome(resume(run)) == outcome(whole)
        assert lines(run / "scores.jsonl") == scores


def stopped(world: World, out: Path, method: str, rounds: int) -> Path:
    recipe = parse_recipe(world.recipe.read_text(), [*world.overrides, *overrides(method)])
    return stop_after(recipe, out, rounds)


@pytest.mark.parametrize("step", [3, 11, 13])
def test_a_run_that_was_killed_ends_the_same(step: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FDLoRA in its first stage, in the second, and with one device's copy made that the round then loses."""
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "cache"))
    whole, run = world.run(tmp_path / "whole", *overrides("fdlora")), tmp_path / "run"
    ended = fedfit(world.command(run, *overrides("fdlora")), tmp_path / "first", tmp_path / "cache", AtStep(step))
    assert ended.status == -signal.SIGKILL, ended.stderr
    assert outcome(resume(run)) == outcome(whole)
    assert lines(run / "scores.jsonl") == lines(whole / "scores.jsonl")


@pytest.mark.parametrize("middle", ["top_k:0.1", "low_rank:2"])
def test_error_feedback_goes_on_where_it_was(middle: str, world: World, tmp_path: Path) -> None:
    """With a method beside it: both lie in a device's memory, and so do the factors that a low rank goes on from."""
    keys = [
        f'transport.uplink=["delta","{middle}","quantize:4"]',
        'transport.downlink=["bf16"]',
        "transport.error_feedback=true",
    ]
    recipe = parse_recipe(world.recipe.read_text(), [*world.overrides, *overrides("ditto"), *keys])
    whole = stop_after(recipe, tmp_path / "whole", 4)
    for rounds in (1, 3):
        run = stop_after(recipe, tmp_path / f"stopped-{rounds}", rounds)
        assert outcome(resume(run)) == outcome(whole)
        assert lines(run / "scores.jsonl") == lines(whole / "scores.jsonl")
