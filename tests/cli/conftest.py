from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trajectories.asking import TASKS, Asking
from tests.trajectories.world import World, one_thread_only


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    with one_thread_only():
        yield


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="package")
def finished(world: World, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without a report; to be read, not written to."""
    return world.run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="package")
def asking(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Asking:
    """Prompts and answers for a random language model."""
    return Asking.make(tmp_path_factory.mktemp("asking"), tiny_models["llama"])


@pytest.fixture(scope="package")
def language_runs(asking: Asking, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task → a finished run of it, with a rate that changes the answers; to be read, not written to."""
    folder, rate = tmp_path_factory.mktemp("language"), "training.learning_rate=0.05"
    runs = {task: asking.run(task, folder / task, rate) for task in TASKS}
    runs["free"] = asking.run("instruction", folder / "free", rate, "data.answer=")
    return runs
