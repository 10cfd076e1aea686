"""What a key of a TOML file is: its default, its meaning and its limits; and a number that may be drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DRAWS = ("uniform", "loguniform", "lognormal", "choice")


@dataclass(frozen=True)
class Draw:
    """A distribution in place of a number, as ``{uniform = [0.2e-25, 1e-25]}``: each device draws its own value.

    ``uniform`` and ``loguniform`` have two ends, ``lognormal`` a median and the standard deviation of the natural logarithm,
    ``choice`` any values, equally likely.
    """

    kind: str
    values: tuple[float, ...]

    def to_toml(self) -> dict[str, list[float]]:
        """The table that stands for it in a file."""
        return {self.kind: list(self.values)}

    def __repr__(self) -> str:
        return f"{{{self.kind} = {list(self.values)}}}"


Number = float | Draw


def options_key(table: str) -> Any:
    """The keys of a section's chosen component: its dataclass by the component's name, in a sub-table of that name.

    Args:
        table: the table of components, by the word that the loader knows it by.
    """
    return field(default_factory=dict, metadata={"options": table})


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    whole: bool | None = None,
) -> Any:
    """A key: its default, its meaning, and what ``experiment.validate`` holds it to. ``whole`` is for drawn integers."""
    limits = {"choices": choices, "minimum": minimum, "above": above, "maximum": maximum, "whole": whole}
    metadata = {"doc": doc, **{name: limit for name, limit in limits.items() if limit is not None}}
    return field(default=default, metadata=metadata)
