"""What the report says under each figure."""

from __future__ import annotations

from typing import Any

from fedfit.reports.costs import CHARGE_WORDS
from fedfit.reports.read import RunData

CAPTIONS = {
    "accuracy": ("Accuracy", "of the global model on the test set before round 1 and after every round."),
    "loss": ("Loss", "mean cross-entropy of the global model on the test set, and of the devices while they train."),
    "accuracy_time": (
        "Accuracy over time",
        "by the system model, since the start; a round lasts until its slowest device has answered, or to the deadline.",
    ),
    "loss_time": (
        "Loss over time",
        "by the system model, since the start; a round lasts until its slowest device has answered, or to the deadline.",
    ),
    "accuracy_energy": ("Accuracy over energy", "that all devices together have spent since the start, by the system model."),
    "loss_energy": ("Loss over energy", "that all devices together have spent since the start, by the system model."),
    "ranks": ("Ranks", "of the adapters in every round, and the limit that stops each device from the next higher rank."),
    "ledger": ("Ledger", "what each device was charged in the whole run for its parts of computing and sending"),
    "labels": ("Labels", "the classes of the training samples, device by device."),
    "bytes": ("Bytes", "encoded packets from the devices (uplink) and to the devices (downlink)."),
    "seconds": ("Seconds", "wall time of every round on the machine that simulated it, evaluation included."),
}
SPENT = " The whole charge is shown, also of a device whose budget or battery ended before."
WIDE = ("ranks", "ledger", "labels", "bytes", "seconds")
"""Figures that take the whole width of the page."""


def caption(run: RunData, name: str) -> tuple[str, str]:
    """Title and text of the figure ``name``; that of the ledger says which charge it shows, and under which limits."""
    title, words = CAPTIONS.get(name, (name, ""))
    if name == "ledger":
        counted = f"counting {CHARGE_WORDS[run.deciding_charge]}, which decides in this run"
        return title, f"{words}; {counted}.{_limits(run.recipe.get('plan', {}))} Circuit energy includes reception.{SPENT}"
    return title, words


def _limits(plan: dict[str, Any]) -> str:
    limits = [
        f"{name} {plan[key]:g} {unit}"
        for key, name, unit in (("deadline_s", "deadline", "s"), ("energy_budget_j", "energy budget", "J"))
        if isinstance(plan.get(key), int | float)
    ]
    return f" Limits of a round: {', '.join(limits)}." if limits else ""
