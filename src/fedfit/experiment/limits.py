"""Holds single keys to the limits that their schema states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fedfit.errors import Fault, choose
from fedfit.schema import Draw


def limit_faults(settings: Any, prefix: str = "") -> Iterator[Fault]:
    """The faults of single keys of ``settings`` and the sections in it, whatever the other keys hold."""
    for item in fields(settings):
        value, name = getattr(settings, item.name), prefix + item.name
        if is_dataclass(value) and not isinstance(value, Draw):
            yield from limit_faults(value, f"{name}.")
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            for number, row in enumerate(value):
                yield from limit_faults(row, f"{name}[{number}].")
        elif isinstance(value, Draw):
            yield from _draw_faults(name, value, item.metadata)
        elif value is not None and not isinstance(value, bool | tuple):
            yield from _value_faults(name, value, value, item.metadata)


def _value_faults(name: str, shown: object, value: Any, limits: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of ``value``: ``shown``, the entry of the file, or one value that this entry can take."""
    if isinstance(value, float) and not math.isfinite(value):
        yield Fault(name, shown, "must be a finite number")
        return
    if "choices" in limits and value not in limits["choices"]:
        yield Fault(name, shown, choose(value, limits["choices"]))
    if "minimum" in limits and not value >= limits["minimum"]:
        yield Fault(name, shown, f"must be at least {limits['minimum']}")
    if "above" in limits and not value > limits["above"]:
        yield Fault(name, shown, f"must be above {limits['above']}")
    if "maximum" in limits and not value <= limits["maximum"]:
        yield Fault(name, shown, f"must be at most {limits['maximum']}")
    if "whole" in limits and isinstance(value, float) and value != round(value):
        yield Fault(name, shown, "must be a whole number")


def _draw_faults(name: str, draw: Draw, limits: Mapping[str, Any]) -> Iterator[Fault]:
    reachable = draw.values[:1] if draw.kind == "lognormal" else draw.values
    rest = {} if draw.kind != "choice" else {"whole": True}
    kept = {limit: value for limit, value in limits.items() if limit != "whole" or rest}
    for value in reachable:
        faults = list(_value_faults(name, draw, value, kept))
        yield from faults[:1]
        if faults:
            return
    if not all(map(math.isfinite, draw.values)):
        yield Fault(name, draw, "must hold finite numbers")
    elif draw.kind in ("uniform", "loguniform") and draw.values[0] > draw.values[1]:
        yield Fault(name, draw, "the first end must not be above the second")
    elif draw.kind in ("loguniform", "lognormal") and draw.values[0] <= 0:
        yield Fault(name, draw, "a logarithm needs values above 0")
    elif draw.kind == "lognormal" and draw.values[1] < 0:
        yield Fault(name, draw, "the standard deviation must be at least 0")
