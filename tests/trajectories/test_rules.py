"""Every rule from a recipe to a run folder: what is saved is what was measured, and a run that was stopped ends the same."""

from pathlib import Path

import pytest

from fedfit.aggregation.table import RULES
from fedfit.experiment.load import parse_recipe
from tests.trajectories.test_results import score_by_peft
from tests.trajectories.world import World, lines, outcome, resume, stop_after

FREE = ["adapter.dropout=0", "federation.rounds=4"]


def unplanned(world: World) -> str:
    """The recipe of this world without its plan: one of ranks that some rules cannot follow, and tested with FedAvg."""
    return world.recipe.read_text().partition("[plan]")[0]


NEEDS = {
    "hetlora_pruning": ["federation.hetlora_pruning.gamma=0.6"],
    "slora": ["federation.slora.sparse_rounds=2"],
    "scaffold": ["training.optimizer=sgd", "training.learning_rate=0.1"],
    "krum": ["federation.krum.byzantine=0", "federation.devices_per_round=3"],  # 2·0 + 3 updates, at least
    "norm_bound": ["federation.norm_bound.bound=0.1"],
}


def overrides(rule: str) -> list[str]:
    own = [f"federation.ranks={[1, 2, 4]}"] if RULES[rule].traits().mixed_ranks else []
    return [*FREE, f"federation.rule={rule}", *own, *NEEDS.get(rule, [])]


@pytest.mark.parametrize("rule", [rule for rule, entry in RULES.items() if not entry.traits().personal])
@pytest.mark.parametrize("rounds", [2, 4])
def test_the_adapter_is_the_model_that_was_measured(
    rule: str, rounds: int, tiny_models: dict[str, Path], world: World, tmp_path: Path
) -> None:
    """Also where the rule merged something into the frozen weights: over the first ones the adapter is the whole difference."""
    base = tiny_models["bert"]
    run = stopped(world, tmp_path / "run", rule, rounds, base)  # after round 2 SLoRA is still at its sparse rounds
    last = lines(run / "rounds.jsonl")[-1]
    accuracy, loss = score_by_peft(base, run / "adapter", world.test)
    assert accuracy == last["test_accuracy"]
    assert loss == pytest.approx(last["test_loss"], rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_was_stopped_ends_the_same(rule: str, tiny_models: dict[str, Path], world: World, tmp_path: Path) -> None:
    base = tiny_models["bert"]
    whole = stopped(world, tmp_path / "whole", rule, 4, base)
    for rounds in (1, 3):
        run = stopped(world, tmp_path / f"stopped-{rounds}", rule, rounds, base)
        assert outcome(resume(run)) == outcome(whole)


def stopped(world: World, out: Path, rule: str, rounds: int, base: Path) -> Path:
    recipe = parse_recipe(unplanned(world), [*world.overrides, *overrides(rule), f"model.name={base}"])
    return stop_after(recipe, out, rounds)
