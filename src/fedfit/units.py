"""How quantities are written for people. Inside the code a unit is part of the name (``_bytes``, ``_s``)."""

from __future__ import annotations

import math

BYTES_PER_GIGABYTE = 1_000_000_000


def format_bytes(size_bytes: float) -> str:
    """``1536`` → ``'1.5 kB'`` (decimal prefixes, as radio rates use them)."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_seconds(duration_s: float) -> str:
    """``75.2`` → ``'1 min 15 s'``; under a minute with one decimal."""
    if duration_s < 60:
        return f"{duration_s:.1f} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_joules(energy_j: float) -> str:
    """``0.0125`` → ``'12.5 mJ'``."""
    return _with_prefix(energy_j, "J", ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ")))


def format_simulated(duration_s: float) -> str:
    """A modelled time as one number, to compare with others: ``'12.5 ms'``, ``'75.2 s'``, ``'12.5 min'``, ``'2.50 h'``."""
    divisor, unit = duration_scale(duration_s)
    return f"{_three_digits(duration_s / divisor)} {unit}"


def duration_scale(largest_s: float) -> tuple[float, str]:
    """What to divide by so that ``largest_s`` seconds read well, and the unit then; not finite is in seconds."""
    if abs(largest_s) >= 2 * 3600 and math.isfinite(largest_s):
        return 3600.0, "h"
    if abs(largest_s) >= 10 * 60 and math.isfinite(largest_s):
        return 60.0, "min"
    return (1e-3, "ms") if 0 < abs(largest_s) < 1 else (1.0, "s")


def energy_scale(largest_j: float) -> tuple[float, str]:
    """What to divide by so that ``largest_j`` joules read well, and the unit then."""
    for divisor, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if divisor <= abs(largest_j) < math.inf:
            return divisor, unit
    return (1e-3, "mJ") if 0 < abs(largest_j) < 1 else (1.0, "J")


def _with_prefix(value: float, unit: str, prefixes: tuple[tuple[float, str], ...]) -> str:
    """``value`` with the largest prefix that leaves it at 1 or more; zero and values that are not finite have none."""
    if value == 0 or not math.isfinite(value):
        return f"{_three_digits(value)} {unit}"
    divisor, prefix = next((pair for pair in prefixes if abs(value) >= pair[0]), prefixes[-1])
    return f"{_three_digits(value / divisor)} {prefix}{unit}"


def _three_digits(value: float) -> str:
    """``1.234`` → ``'1.23'``, ``123.4`` → ``'123'``; nothing that is not finite has digits."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if math.isnan(value):
        return "–"
    size = abs(value)
    return "0" if size == 0 else f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:,.0f}"
