"""Tasks of the tests of parallel runs, in a module that a worker process imports in no time."""

import os
import signal
import time
from collections.abc import Iterator

from fedfit.errors import DataError


def slow(task: int) -> Iterator[tuple[int, float]]:
    """A task of the tests: the tenth of a second for each of three rounds; 7 fails, and 9 kills its process."""
    for number in range(3):
        time.sleep(0.1)
        if task == 7:
            raise DataError("seven")
        if task == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number, float(task)


def threads(task: int) -> Iterator[tuple[int, float]]:
    """The number of threads that torch takes in a worker."""
    import torch

    yield task, float(torch.get_num_threads())
