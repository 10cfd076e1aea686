"""One engine runs figures, comparisons and grids: each is a study of stages and pages."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedfit.experiment.validate import validate_offline
from fedfit.sweeps.comparison import Comparison
from fedfit.sweeps.figures import FIGURES
from fedfit.sweeps.grid import parse_grid
from fedfit.sweeps.grid_study import grid_study
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.mixed_ranks import mixed_ranks
from fedfit.sweeps.reproduce import COMPARISONS, comparison_study, find_study
from fedfit.sweeps.study import Study
from tests.trajectories.world import RECIPE


def studies() -> dict[str, Study]:
    named = {name: find_study(name, "smoke") for name in (*FIGURES, *COMPARISONS)}
    recipe = RECIPE.replace('source = "csv"', 'source = "pydocs"')
    return named | {"sweep": grid_study(recipe, parse_grid(["adapter.rank=1,2", "seed=0..1"]), "accuracy")}


@pytest.mark.parametrize("name", [*FIGURES, *COMPARISONS, "sweep"])
def test_a_study_has_valid_runs_each_in_its_own_folder(name: str, tmp_path: Path) -> None:
    stages = list(studies()[name].stages(tmp_path))
    runs = [(stage.folder / run.folder, run) for stage in stages for run in stage.outline.runs()]
    assert len({folder for folder, _ in runs}) == len(runs) > 0
    assert all(tmp_path in (folder, *folder.parents) for folder, _ in runs)
    assert [fault for _, run in runs for fault in validate_offline(run.recipe)] == []


def test_a_stage_has_no_sweep_before_the_stage_it_depends_on(tmp_path: Path) -> None:
    search, *main = studies()["mixed-ranks"].stages(tmp_path)
    assert search.sweep() is not None
    assert [stage.sweep() for stage in main] == [None] * len(main)


def test_the_rows_that_a_comparison_reports_on_are_a_parameter(tmp_path: Path) -> None:
    on_validation: Comparison = replace(mixed_ranks("smoke"), metric=Metric(part="validation"))
    stages = comparison_study(on_validation).stages(tmp_path)
    assert {stage.outline.metric.key for stage in stages} == {"validation_accuracy"}
