"""When a run has had enough: pure functions of what its rounds measured, so that a resumed run stops where a whole one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_DECIDING = ("validation_{}", "test_{}", "personal_{}_mean", "shared_{}_mean")


def deciding(round_values: Mapping[str, object], metric: str) -> float | None:
    """``metric`` on the validation samples if the run has them, else on the test samples, else on the devices' own;
    ``None`` in a round without evaluation.

    Args:
        round_values: what a round measured, by full name.
    """
    found = (round_values.get(name.format(metric)) for name in _DECIDING)
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def target_reached(target: float, round_values: Mapping[str, object]) -> bool:
    """Whether the accuracy after a round is at least ``target``; 0 is never reached."""
    accuracy = deciding(round_values, "accuracy")
    return accuracy is not None and 0 < target <= accuracy


def patience_ended(patience: int, metric: str, higher_is_better: bool, rounds: Sequence[Mapping[str, object]]) -> bool:
    """Whether the best of all evaluations, the untrained model's among them, is ``patience`` evaluations old; 0 never ends."""
    if not patience:
        return False
    values = [value for measured in rounds if (value := deciding(measured, metric)) is not None]
    ranked = values if higher_is_better else [-value for value in values]
    return bool(ranked) and patience <= len(ranked) - 1 - ranked.index(max(ranked))
