"""What the loss of a run is: its name and its unit, by the run's task."""

from __future__ import annotations

from fedfit.reports.read import RunData

_UNITS = {
    "instruction": ("cross-entropy", "nats a response token"),
    "language_modelling": ("cross-entropy", "nats a token"),
}


def loss_words(run: RunData) -> tuple[str, str]:
    """The loss's name and unit: ``cross-entropy``, ``nats``; of preferences the one that the recipe names, without a unit."""
    kind = run.task.get("kind", "")
    if kind == "preference":
        return f"{str(run.recipe.get('task', {}).get('loss', 'dpo')).upper()} loss", ""
    return _UNITS.get(kind, ("cross-entropy", "nats"))
