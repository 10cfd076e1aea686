from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfit.sweeps.bases import MEASURES
from fedfit.sweeps.rows import Row
from fedfit.sweeps.runner import Progress, Stage, run_stages
from fedfit.sweeps.sweep import Axis, Point, Setting, Sweep
from tests.trajectories.world import RECIPE, World, one_thread_only

SEEDS = 2


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    with one_thread_only():
        yield


def make_sweep(world: World, rounds: int = 3, ranks: tuple[int, ...] = (1, 4)) -> Sweep:
    """A sweep of two points on a tiny federation, named like a figure of the paper so that it has verdicts."""
    data = f'train = "{world.train}"\ntest = "{world.test}"\n'
    base = RECIPE.replace("[data]\n", f"[data]\n{data}").replace("rounds = 3", f"rounds = {rounds}")
    model = world.overrides[2].partition("=")[2]
    points = tuple(Point("last 2 layers", rank, (f"adapter.rank={rank}",)) for rank in ranks)
    notes = (
        Setting("ranks", ("adapter.rank",), "1 to 32"),
        Setting("batch size", ("training.batch_size",), None, "small"),
    )
    base = f'{base}[model]\nname = "{model}"\n'
    axis = Axis("Rank", log2=True)
    return Sweep("fig3", "Accuracy by rank", axis, base, points, notes, "tiny", tuple(range(SEEDS)), measures=MEASURES)


def run_sweep(sweep: Sweep, out: Path, *, force: bool = False, jobs: int = 1) -> Iterator[Progress]:
    """A study of one stage."""
    return run_stages([Stage.of(sweep, out)], force=force, jobs=jobs)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="package")
def sweep(world: World) -> Sweep:
    return make_sweep(world)


@pytest.fixture(scope="package")
def done(sweep: Sweep, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished sweep, run without a stop; tests must not change it."""
    out = tmp_path_factory.mktemp("done")
    for _ in run_sweep(sweep, out):
        pass
    return out


def row(line: str, x: float | None, seed: int, accuracy: float, untrained: float = 0.25, figure: str = "fig3") -> Row:
    """A made-up run with four classes."""
    values = dict.fromkeys(MEASURES, 0.0) | {"final_accuracy": accuracy, "untrained_accuracy": untrained}
    columns = (("figure", figure), ("line", line), ("x", x))
    return Row(columns, seed, (), line, x, "", values, (untrained, accuracy), (0.0, 0.0), 0.25)
