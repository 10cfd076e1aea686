"""The comparison of mixed ranks: valid recipes, equal settings for every method, and checked names."""

import pytest

from fedfit.errors import RecipeError
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.settings import Recipe
from fedfit.sweeps.mixed_ranks import CENTRAL, FSLORA, FULL, LOWEST, RATES, SCALES, mixed_ranks
from fedfit.sweeps.reproduce import find_study
from fedfit.sweeps.sweep import Run


def all_runs(scale: str) -> list[Run]:
    comparison = mixed_ranks(scale).with_seeds(1)
    rates = {method.name: comparison.rates[0] for method in comparison.methods}
    searches = [run for source in comparison.sources() for run in comparison.search(source).runs()]
    return [*searches, *(run for case in comparison.cases for run in comparison.main(case, rates).runs())]


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_is_valid(scale: str) -> None:
    for run in all_runs(scale):
        assert validate_offline(run.recipe) == []
        assert parse_recipe(to_toml(run.recipe)) == run.recipe


def test_four_cases_eight_methods_and_a_search_with_its_own_seed() -> None:
    """Scale small has 2 data sets × 2 spreads; the search has 8 methods × 3 rates on each data set at α = 0.5."""
    comparison = mixed_ranks("small")
    assert [case.slug for case in comparison.cases] == ["ag_news-0.1", "ag_news-0.5", "sst2-0.1", "sst2-0.5"]
    assert len(comparison.methods) == 8
    search = comparison.search("sst2").runs()
    assert len(search) == 8 * len(RATES)
    assert {(run.seed, run.recipe.seed, run.recipe.partition.alpha) for run in search} == {(1000, 1000, 0.5)}
    assert {run.recipe.training.learning_rate for run in search} == set(RATES)


def recipes() -> dict[str, Recipe]:
    """Method → its recipe in the last case of scale small."""
    comparison = mixed_ranks("small").with_seeds(1)
    rates = {method.name: 1e-3 for method in comparison.methods}
    return {run.point.line: run.recipe for run in comparison.main(comparison.cases[-1], rates).runs()}


def test_settings_that_are_equal_for_every_method() -> None:
    found = recipes()
    first = found[FSLORA]
    for recipe in found.values():
        assert recipe.data == first.data
        assert (recipe.federation.rounds, recipe.seed, recipe.model) == (first.federation.rounds, first.seed, first.model)
        assert (recipe.adapter.layers, recipe.adapter.targets, recipe.adapter.head) == ("last:2", ("query", "value"), "train")
        assert (recipe.training.optimizer, recipe.training.batch_size) == ("adamw", first.training.batch_size)
        for rank in (1, 8, 16, 32, 64):
            assert recipe.adapter.size(rank).scale == 1.0


def test_baselines_of_the_mixed_ranks() -> None:
    """The lowest rank is 1/8 of 64; FedAvg at full rank and centralised have the whole 64."""
    found = recipes()
    assert (found[LOWEST].adapter.rank, found[FULL].adapter.rank, found[CENTRAL].adapter.rank) == (8, 64, 64)
    mixed = [recipe.federation.ranks for recipe in found.values() if recipe.federation.ranks is not None]
    assert [ranks.values for ranks in mixed] == [(8, 16, 32)] * 5  # type: ignore[union-attr]
    assert found[CENTRAL].plan.policy == "none"
    assert {recipe.plan.policy for name, recipe in found.items() if name != CENTRAL} == {"fixed"}


def test_centralised_has_as_many_steps_a_round_as_all_devices_together() -> None:
    found = recipes()
    federation, training = found[FSLORA].federation, found[FSLORA].training
    assert found[CENTRAL].training.local_steps == federation.devices_per_round * (training.local_steps or 0)
    assert found[CENTRAL].training.batch_size == training.batch_size


def test_smoke_needs_no_download() -> None:
    assert mixed_ranks("smoke").sources() == ["pydocs"]


@pytest.mark.parametrize(
    ("name", "scale", "seeds", "only", "said"),
    [
        ("mixed-ranks", "paper", 1, None, r"--scale = 'paper': mixed-ranks has no such scale; choose one of smoke, small"),
        ("mixed-rank", "small", 1, None, "did you mean 'mixed-ranks'"),
        ("mixed-ranks", "small", 0, None, "--seeds = 0"),
        ("mixed-ranks", "small", 1, "mrpc", r"--only = 'mrpc'.* ag_news-0\.1, ag_news-0\.5, sst2-0\.1, sst2-0\.5"),
        ("fig3", "small", 1, "ag_news", "fig3 has no cases"),
    ],
)
def test_a_wrong_name_is_refused_at_once(name: str, scale: str, seeds: int, only: str | None, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_study(name, scale, seeds, only=only)


def test_only_selects_cases_by_name() -> None:
    comparison = mixed_ranks("small")
    assert [case.slug for case in comparison.matching("sst2")] == ["sst2-0.1", "sst2-0.5"]
    assert comparison.only(comparison.matching("sst2")).sources() == ["sst2"]


def test_a_study_is_found_by_name() -> None:
    found = find_study("fig3", "small", only=None)
    assert (found.name, found.default_out.as_posix()) == ("fig3", "runs/fig3-small")
    assert find_study("mixed-ranks", "smoke").default_out.as_posix() == "runs/mixed-ranks-smoke"
