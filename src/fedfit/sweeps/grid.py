"""Parses the arguments of ``fedfit sweep``, such as ``adapter.rank=4,8,16 seed=0..2``, into a grid of overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from fedfit.errors import Fault, RecipeError

SEED = "seed"
MAX_RUNS = 1000
"""A larger grid is refused as a likely mistake, such as a range with an extra digit."""

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


@dataclass(frozen=True)
class Grid:
    """A grid: ``axes`` are the keys with several values, ``fixed`` the overrides (``section.key=value``) of every run.

    Empty ``seeds`` stand for the recipe's own seed.
    """

    axes: tuple[tuple[str, tuple[str, ...]], ...]
    fixed: tuple[str, ...]
    seeds: tuple[int, ...]

    def cells(self) -> list[tuple[tuple[str, str], ...]]:
        """Every combination of one value per key, the last key changing fastest; a grid without axes has one empty cell."""
        keys = [key for key, _ in self.axes]
        return [tuple(zip(keys, values, strict=True)) for values in product(*(values for _, values in self.axes))]


def parse_grid(words: Sequence[str]) -> Grid:
    """The grid of ``section.key=values``: commas separate values, ``a..b`` stands for the whole numbers from a to b.

    Commas in brackets, braces and quotes do not separate, so that a list is one value, as in
    ``adapter.targets=["query"],["query","key"]``.

    Raises:
        RecipeError: with every fault in ``words``.
    """
    faults: list[Fault] = []
    values: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not key:
            faults.append(Fault("override", word, "write section.key=value, for example adapter.rank=4,8,16"))
        elif key in values:
            faults.append(Fault(key, text, "the key is given twice; write all its values after one ="))
        else:
            values[key] = _values(key, text, faults)
    seeds = _seeds(values.pop(SEED, ()), faults)
    axes = tuple((key, found) for key, found in values.items() if len(found) > 1)
    _check_size(axes, seeds, faults)
    if faults:
        raise RecipeError(faults, "the sweep")
    fixed = tuple(f"{key}={found[0]}" for key, found in values.items() if len(found) == 1)
    return Grid(axes, fixed, seeds)


def split_values(text: str) -> list[str]:
    """``text`` split at commas outside brackets, braces and quotes; each part without surrounding spaces."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _values(key: str, text: str, faults: list[Fault]) -> tuple[str, ...]:
    if not text:
        return ("",)  # removes the key from the recipe, as every override does
    found: list[str] = []
    for part in split_values(text):
        bounds = _RANGE.fullmatch(part)
        if not part:
            faults.append(Fault(key, text, "a value between two commas is missing"))
        elif bounds is None:
            found.append(part)
        else:
            found += _range(key, part, int(bounds[1]), int(bounds[2]), faults)
    twice = sorted({part for part in found if found.count(part) > 1}) if len(found) <= MAX_RUNS else []
    if twice:
        faults.append(Fault(key, text, f"{', '.join(twice)} is given twice; a sweep runs each value once"))
    return tuple(found)


def _range(key: str, part: str, first: int, last: int, faults: list[Fault]) -> list[str]:
    if first > last:
        faults.append(Fault(key, part, f"the range is empty; write {last}..{first}"))
    elif last - first >= MAX_RUNS:
        faults.append(Fault(key, part, f"{last - first + 1:,} values; a sweep has at most {MAX_RUNS:,} runs"))
    else:
        return [str(number) for number in range(first, last + 1)]
    return []


def _seeds(values: Sequence[str], faults: list[Fault]) -> tuple[int, ...]:
    """The seeds as whole numbers; the recipe checks their range."""
    wrong = [value for value in values if not re.fullmatch(r"-?\d+", value)]
    if wrong:
        faults.append(Fault(SEED, ",".join(wrong), "seeds are whole numbers; write seed=0..2 or seed=3,7"))
    return tuple(int(value) for value in values if value not in wrong)


def _check_size(axes: Sequence[tuple[str, Sequence[str]]], seeds: Sequence[int], faults: list[Fault]) -> None:
    runs = prod(len(values) for _, values in axes) * max(1, len(seeds))
    if runs > MAX_RUNS:
        remedy = f"{runs:,} runs; a sweep has at most {MAX_RUNS:,}. Sweep fewer values, or in several folders"
        faults.append(Fault("sweep", f"{len(axes)} keys", remedy))
    if runs == 1 and not faults:
        remedy = "this is one run only; give a key several values (adapter.rank=4,8,16), or use `fedfit run`"
        faults.append(Fault("sweep", "one value a key", remedy))
