"""Several runs of a sweep at once: worker processes that take one run after another.

A worker is a fresh process (``spawn``), so nothing of torch's state is shared. Where the user has set no number of threads, the
processors are divided among the workers; results then are those of one job with as many threads, to the bit. The workers share
the trunk cache, which is made for it.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.context import SpawnProcess
from typing import Any

from fedfit.errors import FedfitError, RunFolderError

_POLL_S = 0.5
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

Rounds = Callable[[Any], Any]
"""A task → a generator of ``(round, value)``; both must be importable by name, and be pickled."""


def in_parallel(
    tasks: Sequence[Any], rounds: Rounds, jobs: int, prepare: Callable[[], None] | None = None
) -> Iterator[tuple[int, int, float]]:
    """The number of a task, and the round and value that it has come to, as they happen. ``prepare`` is called first in every
    worker.

    Closing the iterator ends the workers at once; a run that is ended so can be resumed.

    Raises:
        FedfitError: the first of any task's.
        RunFolderError: when a worker ends without a word, as one does that is killed for want of memory.
    """
    context = mp.get_context("spawn")
    waiting, events = context.Queue(), context.Queue()
    for number, task in enumerate(tasks):
        waiting.put((number, task))
    workers: list[SpawnProcess] = []
    count = min(jobs, len(tasks))
    with _threads_divided(count):
        for _ in range(count):
            waiting.put(None)
            worker = context.Process(target=_work, args=(waiting, events, rounds, prepare), daemon=True)
            worker.start()
            workers.append(worker)
    try:
        left = len(workers)
        while left:
            event = _next(events, workers)
            if event is None:
                left -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield event
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _next(events: Any, workers: Sequence[SpawnProcess]) -> Any:
    """The next event; who has ended without one is asked once more, since its last words may be on their way."""
    while True:
        silent = [worker for worker in workers if worker.exitcode not in (None, 0)]
        try:
            return events.get(timeout=_POLL_S)
        except queue.Empty:
            if silent:
                code = silent[0].exitcode
                how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
                raise RunFolderError(
                    f"a process of --jobs ended with {how}; if it says nothing more, perhaps for want of memory. The same "
                    "command goes on, with fewer --jobs if need be"
                ) from None


def _work(waiting: Any, events: Any, rounds: Rounds, prepare: Callable[[], None] | None) -> None:
    """A worker: runs tasks until there are none, or one fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    parent = os.getppid()
    if prepare is not None:
        prepare()
    try:
        while (taken := waiting.get()) is not None:
            number, task = taken
            with closing(rounds(task)) as happening:
                for last, value in happening:
                    events.put((number, last, value))
                    if os.getppid() != parent:  # it was killed: nobody asks for more
                        return
        events.put(None)
    except FedfitError as error:
        events.put(_pickled(error))


def _pickled(error: FedfitError) -> FedfitError:
    """``error``, or its text where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # our own object, not a byte from outside
    except Exception:
        return FedfitError(str(error))
    return error


@contextmanager
def _threads_divided(jobs: int) -> Iterator[None]:
    """While it lasts, a process that starts has its part of the processors, unless the user has set a number."""
    if any(name in os.environ for name in _THREADS):
        yield
        return
    each = max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1
    os.environ |= dict.fromkeys(_THREADS, str(each))
    try:
        yield
    finally:
        for name in _THREADS:
            del os.environ[name]
