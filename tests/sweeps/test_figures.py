"""The table of figures: valid recipes at every scale, with the points of the paper."""

import math

import pytest

from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.validate import validate_offline
from fedfit.models.layers import select_layers
from fedfit.settings import Recipe
from fedfit.sweeps.bases import SCALES, SEEDS
from fedfit.sweeps.figures import FIGURES, PLACEMENTS, RANKS, load_ratio


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_run_is_valid_and_has_its_own_folder(figure: str, scale: str) -> None:
    sweep = FIGURES[figure](scale)
    runs = sweep.runs()
    assert [(run.folder, validate_offline(run.recipe)) for run in runs if validate_offline(run.recipe)] == []
    assert len({run.folder for run in runs}) == len(runs) == SEEDS[scale] * len(sweep.points)
    assert all(parse_recipe(to_toml(run.recipe)) == run.recipe for run in runs)
    assert (sweep.name, sweep.scale) == (figure, scale)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_setting_is_listed_once(figure: str, scale: str) -> None:
    keys = [key for note in FIGURES[figure](scale).notes for key in note.keys]
    assert sorted(set(keys)) == sorted(keys)


@pytest.mark.parametrize("scale", SCALES)
def test_smoke_is_small_and_needs_no_download(scale: str) -> None:
    for draw in FIGURES.values():
        sweep = draw(scale)
        if scale == "smoke":
            assert len(sweep.points) <= 4
            assert sweep.values("data.source") == ["pydocs"]
            assert sweep.values("federation.rounds") == [1]


def test_fig2_compares_four_placements_of_the_six_layers() -> None:
    layers = [select_layers(spec, 6) for spec in FIGURES["fig2"]("small").values("adapter.layers")]
    assert layers == [(0, 1, 2, 3, 4, 5), (3, 4, 5), (2, 3, 4), (0, 1, 2)]
    assert len(PLACEMENTS) == 4


def test_fig3_sweeps_the_rank_alone() -> None:
    sweep = FIGURES["fig3"]("small")
    assert sweep.values("adapter.rank") == [point.x for point in sweep.points] == list(RANKS) == [2**n for n in range(8)]
    assert sweep.values("adapter.layers") == ["last:3"]


@pytest.mark.parametrize(
    ("figure", "swept", "fixed"), [("fig4", "deadline_s", "energy_budget_j"), ("fig5", "energy_budget_j", "deadline_s")]
)
@pytest.mark.parametrize("scale", SCALES)
def test_fig4_and_5_sweep_one_limit_under_both_policies(figure: str, swept: str, fixed: str, scale: str) -> None:
    sweep = FIGURES[figure](scale)
    assert sweep.values("plan.policy") == ["joint", "random_frequency"]
    limits = sweep.values(f"plan.{swept}")
    assert [point.x for point in sweep.points] == [*limits, *limits]
    assert limits == sorted(limits)
    (other,) = sweep.values(f"plan.{fixed}")
    assert other > 0
    for key, value in (("plan.count", "formula"), ("plan.bits_per_parameter", 256.0), ("channel.fading", "rayleigh")):
        assert sweep.values(key) == [value]
    assert sweep.values("adapter.rank") == [32]


def test_load_ratio() -> None:
    """Samples: 100, 1,000, 40,000. Matrices: 384², 384², 768². So 1/10, 1, and 40 · 4."""
    assert [load_ratio(scale) for scale in ("smoke", "small", "paper")] == [0.1, 1.0, 160.0]


@pytest.mark.parametrize("scale", SCALES)
def test_scaled_limits_keep_the_greatest_rank(scale: str) -> None:
    """By eq. 1 to 3 without the channel E = Ω·(C|D|)³/T², so r is proportional to (E·T²)^(1/3) over the load."""
    here, small = FIGURES["fig4"](scale), FIGURES["fig4"]("small")
    reaches = [reach(small.recipe(point, 0)) for point in small.points]
    for point in here.points:
        scaled = reach(here.recipe(point, 0)) / load_ratio(scale)
        assert min(abs(scaled / value - 1) for value in reaches) < 1e-5


def reach(recipe: Recipe) -> float:
    plan = recipe.plan
    assert plan.deadline_s is not None
    assert plan.energy_budget_j is not None
    return math.cbrt(plan.energy_budget_j * plan.deadline_s**2)
