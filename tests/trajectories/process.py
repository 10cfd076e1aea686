"""``fedfit`` in a process of its own that kills itself at a chosen point.

The processes are forked from a server that has imported everything already: a start costs nothing, and they are real
processes that really die. Where a write is to be cut, ``os.fsync`` is the seam: a file that is to survive a kill must
pass there, and ``/proc`` tells which file it is.
"""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Sabotage = Callable[[], None]

_SLOW_TO_IMPORT = [
    "fedfit.experiment.session",
    "fedfit.reports.report",
    "fedfit.progress",
    "flwr_datasets.partitioner",
    "datasets",
    "transformers.models.bert.modeling_bert",
    "tests.trajectories.process",
]


@dataclass(frozen=True)
class Ended:
    """How a process ended; ``status`` is ``-9`` for one that was killed."""

    status: int
    stdout: str
    stderr: str


def fedfit(arguments: Sequence[str], scratch: Path, cache: Path, sabotage: Sabotage | None = None) -> Ended:
    """Runs ``fedfit`` with ``arguments``; its output goes through files in ``scratch``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SLOW_TO_IMPORT)
    scratch.mkdir(exist_ok=True)
    process = context.Process(target=_main, args=(list(arguments), scratch, cache, sabotage))
    process.start()
    process.join(60)
    assert process.exitcode is not None, "it hangs"
    return Ended(process.exitcode, (scratch / "stdout").read_text(), (scratch / "stderr").read_text())


def _main(arguments: list[str], scratch: Path, cache: Path, sabotage: Sabotage | None) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["FEDFIT_CACHE"] = str(cache)
    torch.set_num_threads(1)
    from fedfit.cli import app

    if sabotage is not None:
        sabotage()
    app(arguments)


def die() -> None:
    """As ``kill -9`` does it: nothing is flushed, no ``finally`` runs."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class AtSync:
    """Dies when the file whose name matches ``pattern`` is synced for the ``nth`` time, having lost its last bytes."""

    pattern: str
    nth: int = 1
    lost_bytes: int = 9

    def __call__(self) -> None:
        sync, seen = os.fsync, 0

        def fsync(descriptor: int) -> None:
            nonlocal seen
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
            if re.fullmatch(self.pattern, name):
                seen += 1
                if seen == self.nth:
                    os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - self.lost_bytes))
                    die()
            sync(descriptor)

        os.fsync = fsync  # type: ignore[assignment]


@dataclass(frozen=True)
class AtStep:
    """Gets ``signum`` in the middle of training, before the optimiser's ``nth`` step."""

    nth: int
    signum: int = signal.SIGKILL

    def __call__(self) -> None:
        # A suite that a shell runs in the background hands down an ignored SIGINT; a person's terminal does not.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        step, seen = torch.optim.AdamW.step, 0

        def counted(optimizer: torch.optim.AdamW, closure: None = None) -> object:
            nonlocal seen
            seen += 1
            if seen == self.nth:
                os.kill(os.getpid(), self.signum)
            return step(optimizer, closure)

        torch.optim.AdamW.step = counted  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class AtCacheWrite:
    """Dies in the ``nth`` write to the trunk cache, half of it done."""

    nth: int

    def __call__(self) -> None:
        from fedfit.models import cache_segment

        write_all, seen = cache_segment.write_all, 0

        def half(file: object, payload: bytes) -> None:
            nonlocal seen
            seen += 1
            if seen == self.nth:
                write_all(file, payload[: len(payload) // 2])  # type: ignore[arg-type]
                die()
            write_all(file, payload)  # type: ignore[arg-type]

        cache_segment.write_all = half


@dataclass(frozen=True)
class AtRename:
    """Dies just before a file or folder called ``name`` takes its final name."""

    name: str

    def __call__(self) -> None:
        rename = Path.rename

        def counted(path: Path, target: Path) -> Path:
            if path.name == self.name:
                die()
            return rename(path, target)

        Path.rename = counted  # type: ignore[method-assign, assignment]
