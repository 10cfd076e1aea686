"""What a claim is about: the leading metric of a comparison, another one that it shows, or a cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rows import Row

_COSTS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {"uplink_bytes": ("MB up", 1e-6), "simulated_j": ("joules", 1.0), "simulated_s": ("simulated seconds", 1.0)}
)
"""Column of a row → unit, and the factor to it."""


@dataclass(frozen=True)
class Cost(Metric):
    """A cost of a whole run, by its column: lower is better."""

    name: str = "uplink_bytes"

    @property
    def key(self) -> str:
        """The column."""
        return self.name

    @property
    def factor(self) -> float:
        """Factor from the recorded value to the displayed one."""
        return _COSTS[self.name][1]

    @property
    def higher_is_better(self) -> bool:
        """Never."""
        return False

    @property
    def digits(self) -> int:
        """Digits behind the point of a displayed value."""
        return 1

    @property
    def difference_unit(self) -> str:
        """Its unit."""
        return _COSTS[self.name][0]


def measure_of(name: str, leading: Metric) -> Metric:
    """The measure ``name`` of a claim, in a comparison with the ``leading`` metric; empty is that one."""
    if not name:
        return leading
    return Cost(name) if name in _COSTS else replace(leading, name=name)


def measured(row: Row, measure: Metric, leading: Metric) -> float:
    """The displayed value of ``measure`` in ``row``, after the last round."""
    if measure == leading:
        return measure.factor * row.final
    value = row.values[measure.name if isinstance(measure, Cost) else f"final_{measure.name}"]
    assert value is not None
    return measure.factor * value
