from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trajectories.world import World, one_thread_only


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    with one_thread_only():
        yield


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


@pytest.fixture(scope="package")
def reference(world: World, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ``world`` that nothing has disturbed."""
    return world.run(tmp_path_factory.mktemp("reference") / "run")
