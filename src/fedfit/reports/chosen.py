"""The runs among the folders that ``fedfit compare`` is given: a shell's ``runs/*`` also names sweeps and other folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedfit.core.run_files import check_is_run, why_no_run
from fedfit.errors import RunFolderError
from fedfit.reports.read import RECIPE, ROUNDS, RunData, read_run

_SWEEPS = ("runs", "*/runs", "*/*/runs")
"""Places of run folders below the folder of a sweep, and of a study of several sweeps."""


def choose_runs(folders: Sequence[Path]) -> tuple[list[RunData], list[str]]:
    """The runs among ``folders``, and a line for each folder that is none.

    Raises:
        RunFolderError: if there is no run among them, if one does not exist, or if a run's files are damaged.
    """
    if not folders:
        raise RunFolderError("nothing to compare: name at least one run folder")
    reasons = {folder: reason for folder in folders if (reason := why_skipped(folder)) is not None}
    runs = [read_run(folder) for folder in folders if folder not in reasons]
    if not runs:
        _refuse(reasons)
    return runs, [f"skipped {folder}: {reason}" for folder, reason in reasons.items()]


def why_skipped(folder: Path) -> str | None:
    """The reason that ``folder`` has nothing to compare, with the remedy if there is one; ``None`` for a run.

    Raises:
        RunFolderError: if ``folder`` does not exist.
    """
    if not folder.exists():
        check_is_run(folder, ())
    reason = why_no_run(folder, (RECIPE, ROUNDS))
    if reason is None:
        begun = (folder / ROUNDS).stat().st_size == 0
        return f"it has no finished round yet; `fedfit resume {folder}` goes on with it" if begun else None
    for place in _SWEEPS:
        found = next(iter(sorted(folder.glob(f"{place}/*/{RECIPE}"))), None)
        if found is not None:
            several = "a sweep; compare its runs with" if place == "runs" else "several sweeps; compare the runs of one with"
            return f"{several} {found.parent.parent}/*"
    return reason.removeprefix("is ")


def _refuse(reasons: dict[Path, str]) -> None:
    if len(reasons) > 1:
        lines = "".join(f"\n  {folder}: {reason}" for folder, reason in reasons.items())
        raise RunFolderError(f"no run among the {len(reasons)} folders:{lines}")
    for folder, reason in reasons.items():
        if reason.startswith("not "):
            check_is_run(folder, (RECIPE, ROUNDS))
        raise RunFolderError(f"{folder}: {reason}")
