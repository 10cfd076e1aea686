"""A study: sweeps to be run one after another, and the pages written of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fedfit.sweeps.metric import Metric
from fedfit.sweeps.runner import Stage


@dataclass(frozen=True)
class Study:
    """``stages`` are the sweeps by the folder of the study; ``write`` makes the pages from finished runs, returns paths.

    ``default_out`` is the folder unless the user names one; ``pages`` are the names of the written files to be printed.
    """

    name: str
    default_out: Path
    stages: Callable[[Path], Iterable[Stage]]
    write: Callable[[Path], list[Path]]
    metric: Metric
    pages: tuple[str, ...] = ("table.md", "verdicts.md")
