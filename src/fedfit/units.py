"""How quantities are written for people. Inside the code a unit is part of the name (``_bytes``, ``_s``)."""

from __future__ import annotations

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
