"""Several runs of a sweep at once are those of one after another, also when stopped, killed or faulty in between."""

import multiprocessing
import os
from contextlib import closing
from pathlib import Path

import pytest

from fedfit.errors import DataError, RunFolderError
from fedfit.sweeps.parallel import in_parallel
from fedfit.sweeps.sweep import Sweep
from tests.sweeps.conftest import run_sweep
from tests.sweeps.jobs_tasks import slow, threads
from tests.sweeps.test_runner import outcomes


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_two_at_once_are_the_same_runs(sweep: Sweep, done: Path, tmp_path: Path) -> None:
    """Stopped after five rounds and gone on with: to the bit. Every round is counted once, and each run is told by its name."""
    with closing(run_sweep(sweep, tmp_path, jobs=2)) as stream:  # type: ignore[type-var]
        seen = [next(stream) for _ in range(5)]
    assert len({step.name for step in seen}) == 2, "two at once"
    rest = list(run_sweep(sweep, tmp_path, jobs=2))
    assert rest[-1].done == rest[-1].total == 16
    assert [step.done for step in rest] == sorted(step.done for step in rest)
    assert outcomes(tmp_path) == outcomes(done)
    again = list(run_sweep(sweep, tmp_path, jobs=2))
    assert [(step.run, step.done) for step in again] == [(1, 4), (2, 8), (3, 12), (4, 16)], "nothing is left to run"


def test_all_tasks_and_rounds_arrive() -> None:
    """More tasks than workers, more workers than tasks."""
    for tasks, jobs in ((range(5), 2), (range(2), 4)):
        found = list(in_parallel(tasks, slow, jobs))
        assert sorted(found) == [(task, number, float(task)) for task in tasks for number in range(3)]


@pytest.mark.parametrize(("task", "error", "words"), [(7, DataError, "seven"), (9, RunFolderError, "ended with signal 9")])
def test_an_error_ends_all(task: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(in_parallel([1, task, *range(20, 60)], slow, 2))
    assert multiprocessing.active_children() == []


def test_processors_are_divided_unless_a_number_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {value for _, _, value in in_parallel([0, 1], threads, 2)} == {1.0}, "as set"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {value for _, _, value in in_parallel([0, 1], threads, 2)} == {float(each)}
    assert "OMP_NUM_THREADS" not in os.environ
