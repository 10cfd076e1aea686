"""A study: sweeps to run one after another, and the pages to write from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fedfit.sweeps.metric import Metric
from fedfit.sweeps.runner import Stage


@dataclass(frozen=True)
class Study:
    """A study. ``stages`` returns its sweeps in a folder; ``write`` writes the pages of finished runs and returns the paths.

    ``default_out`` is the folder unless the user names one; ``pages`` names the written files that the command prints.
    """

    name: str
    default_out: Path
    stages: Callable[[Path], Iterable[Stage]]
    write: Callable[[Path], list[Path]]
    metric: Metric
    pages: tuple[str, ...] = ("table.md", "verdicts.md")
