"""What the report says under each figure."""

from __future__ import annotations

from typing import Any

from fedfit.reports.costs import CHARGE_WORDS
from fedfit.reports.curves import groups
from fedfit.reports.read import RunData

CAPTIONS = {
    "confusion": ("Confusion matrix", "the final model on the test set: how often each true class was taken for each class."),
    "by_device": ("By device", "the model after the last evaluation, on the test rows that each device set apart."),
    "ranks": ("Ranks", "of the adapters in every round, and the limit that stops each device from the next higher rank."),
    "ledger": ("Ledger", "what each device was charged in the whole run for its parts of computing and sending"),
    "labels": ("Labels", "the classes of the training samples, device by device."),
    "bytes": ("Bytes", "encoded packets from the devices (uplink) and to the devices (downlink)."),
    "seconds": ("Seconds", "wall time of every round on the machine that simulated it, evaluation included."),
}
SPENT = " The whole charge is shown, also of a device whose budget or battery ended before."
PARTS = {
    "test": "of the global model on the test set",
    "validation": "of the global model on the validation set",
    "personal": "of each device's own model on the device's own test rows",
    "shared": "of the global model on each device's own test rows",
}
AXES = {
    "_time": "Over the time of the system model since the start; "
    "a round lasts until its slowest device has answered, or to the deadline.",
    "_energy": "Over the energy that all devices together have spent since the start, by the system model.",
}
TITLES = {"_time": "over time", "_energy": "over energy"}


def caption(run: RunData, name: str) -> tuple[str, str]:
    """Title and text of the figure ``name``; that of the ledger says which charge it shows, and under which limits."""
    if name not in CAPTIONS:
        return _of_curves(run, name)
    title, words = CAPTIONS[name]
    if name == "ledger":
        counted = f"counting {CHARGE_WORDS[run.deciding_charge]}, which decides in this run"
        return title, f"{words}; {counted}.{_limits(run.recipe.get('plan', {}))} Circuit energy includes reception.{SPENT}"
    return title, words


def _of_curves(run: RunData, name: str) -> tuple[str, str]:
    """Of a figure of metrics: what they were measured on, and over what they are drawn."""
    suffix = next((suffix for suffix in AXES if name.endswith(suffix)), "")
    group = next((group for group in groups(run) if group.name == name.removesuffix(suffix)), None)
    if group is None:
        return name, ""
    measured = [PARTS.get(part, f"on {part} rows") for part in group.parts]
    words = f"{', and '.join(measured)}, before round 1 and after every round that was evaluated."
    if group.is_loss:
        words = f"mean cross-entropy {', and '.join(measured)}; and of the devices while they train."
    title = f"{group.title} {TITLES.get(suffix, '')}".strip()
    return title, f"{words} {AXES.get(suffix, '')}".strip()


def _limits(plan: dict[str, Any]) -> str:
    limits = [
        f"{name} {plan[key]:g} {unit}"
        for key, name, unit in (("deadline_s", "deadline", "s"), ("energy_budget_j", "energy budget", "J"))
        if isinstance(plan.get(key), int | float)
    ]
    return f" Limits of a round: {', '.join(limits)}." if limits else ""
