"""Captions of the report's figures."""

from __future__ import annotations

from typing import Any

from fedfit.reports.costs import CHARGE_WORDS
from fedfit.reports.curves import groups
from fedfit.reports.losses import loss_words
from fedfit.reports.read import RunData

CAPTIONS = {
    "confusion": (
        "Confusion matrix",
        "the final model on the test set: how often it predicted each class for each true class.",
    ),
    "own_models": (
        "Own models",
        "each device's models, the shared one among them, on the device's own test rows. Left: mean and worst device by round; "
        "right: all devices after the last evaluation, each model in its own order, worst first.",
    ),
    "own_gain": (
        "Personal gain",
        "how much better the model that a device uses is than the shared one, on the device's own test rows, over its training "
        "samples. The skew is the share of samples that would have to change class for the device to have the classes of all.",
    ),
    "by_device": ("By device", "the scores of the last evaluation, on each device's own test rows."),
    "ranks": ("Ranks", "adapter ranks in every round, and the limit that keeps each device from the next higher rank."),
    "ledger": ("Ledger", "time and energy charged to each device in the whole run for computing and communication"),
    "labels": ("Labels", "the training samples of each device, by class where they have classes."),
    "bytes": ("Bytes", "encoded packets from the devices (uplink) and to the devices (downlink)."),
    "seconds": ("Seconds", "wall time of every round on the machine that simulated it, evaluation included."),
}
SPENT = " The figure shows the whole charge, even of a device whose budget or battery ran out earlier."
PARTS = {
    "test": "of the global model on the test set",
    "validation": "of the global model on the validation set",
    "personal": "of each device's own model on the device's own test rows",
    "shared": "of the global model on each device's own test rows",
    "fused": "of each device's fused model on the device's own test rows",
}
AXES = {
    "_time": "The x axis is the system model's time since the start; "
    "a round ends when its slowest device has answered, or at the deadline.",
    "_energy": "The x axis is the energy of all devices together since the start, by the system model.",
}
TITLES = {"_time": "over time", "_energy": "over energy"}


def caption(run: RunData, name: str) -> tuple[str, str]:
    """Title and text of the figure ``name``. The ledger's text names the charge that it shows and the round's limits."""
    if name not in CAPTIONS:
        return _curves_caption(run, name)
    title, words = CAPTIONS[name]
    if name == "ledger":
        counted = f"counting {CHARGE_WORDS[run.deciding_charge]}, as this run's plan does"
        limits = _limits_sentence(run.recipe.get("plan", {}))
        return title, f"{words}; {counted}.{limits} Circuit energy includes reception.{SPENT}"
    return title, words


def _curves_caption(run: RunData, name: str) -> tuple[str, str]:
    """Title and text of a metrics figure: the rows that its metrics were measured on, and the x axis."""
    suffix = next((suffix for suffix in AXES if name.endswith(suffix)), "")
    group = next((group for group in groups(run) if group.name == name.removesuffix(suffix)), None)
    if group is None:
        return name, ""
    measured = [PARTS.get(part, f"on {part} rows") for part in group.parts]
    words = f"{', and '.join(measured)}, before round 1 and after every round that was evaluated."
    if group.is_loss:
        words = f"mean {loss_words(run)[0]} {', and '.join(measured)}; also the training loss, as the mean over devices."
    title = f"{group.title} {TITLES.get(suffix, '')}".strip()
    return title, f"{words} {AXES.get(suffix, '')}".strip()


def _limits_sentence(plan: dict[str, Any]) -> str:
    limits = [
        f"{name} {plan[key]:g} {unit}"
        for key, name, unit in (("deadline_s", "deadline", "s"), ("energy_budget_j", "energy budget", "J"))
        if isinstance(plan.get(key), int | float)
    ]
    return f" Limits of a round: {', '.join(limits)}." if limits else ""
