"""A plan as a table for a terminal: ranks, frequencies, and their shares of the deadline and the energy budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedfit.units import duration_scale, energy_scale

HEAD_DEVICES, TAIL_DEVICES = 20, 3
"""Devices of a large fleet that the table shows."""
HEADINGS = (
    "Device",
    "Max\nrank",
    "Rank",
    "Freq.\n(GHz)",
    "Range\n(GHz)",
    "Latency\nof deadline",
    "Energy\nof budget",
    "Next rank\nlimited by",
)
LIMITS = {"frequency": "max. freq.", "max_rank": "max. rank", "none": "nothing"}
"""Limits by their short names; the others are words already."""
EXTRA = {"layers": "Layers", "band_hz": "Band\n(kHz)"}
"""Optional choices of a plan: key in the JSON → heading. The table shows those that the plan has."""


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A table with a line per feasible device, for 80 characters. It omits the middle of a large fleet; the title has the size.

    ``Max rank`` is the device's highest rank, ``Rank`` its assigned rank, ``Range`` the frequencies that the assigned rank
    allows, and ``Freq.`` the frequency chosen from them. The last column is what stops the rank above
    the device's highest.
    """
    devices = plan["devices"]
    extra = [name for name in EXTRA if devices and name in devices[0]]
    headings = (*HEADINGS[:-1], *(EXTRA[name] for name in extra), HEADINGS[-1])
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", title=Text(_title(plan)))
    for heading in headings:
        text = heading == "Device"
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=not text, overflow="fold" if text else "ellipsis"
        )
    long = len(devices) > HEAD_DEVICES + TAIL_DEVICES + 1
    for device in devices[:HEAD_DEVICES] if long else devices:
        table.add_row(*_cells(device, plan.get("deadline_s"), extra))
    if long:
        table.add_row(*["…"] * len(headings))
        for device in devices[-TAIL_DEVICES:]:
            table.add_row(*_cells(device, plan.get("deadline_s"), extra))
    return table


def share_of(value: float, limit: float | None, scale: Callable[[float], tuple[float, str]]) -> str:
    """``589.1`` s of ``600`` s → ``'589.1/600 s'``, in a unit that suits the limit; without a limit the value alone."""
    if limit is None or not math.isfinite(limit):
        divisor, unit = scale(value)
        return f"{value / divisor:.4g} {unit}"
    divisor, unit = scale(limit)
    return f"{value / divisor:.4g}/{limit / divisor:.4g} {unit}"


def _title(plan: Mapping[str, Any]) -> str:
    devices, infeasible = len(plan["devices"]), len(plan.get("infeasible", []))
    policy = "a common rank" if plan.get("policy") == "common" else "a rank for each device"
    without = f", {infeasible:,} cannot take part" if infeasible else ""
    return f"{policy}: {devices:,} device{'' if devices == 1 else 's'}{without}"


def _cells(device: Mapping[str, Any], deadline_s: float | None, extra: Sequence[str]) -> tuple[str | Text, ...]:
    low, high = device["frequency_range_hz"]
    return (
        Text(str(device["id"])),
        str(device["max_rank"]),
        str(device["rank"]),
        _gigahertz(device["frequency_hz"]),
        f"{_gigahertz(low)}–{_gigahertz(high)}",
        share_of(device["latency_s"]["total"], deadline_s, duration_scale),
        share_of(device["energy_j"]["total"], device["energy_budget_j"], energy_scale),
        *(f"{device[name] / 1e3:.4g}" if name == "band_hz" else str(device[name]) for name in extra),
        LIMITS.get(str(device["binding"]), str(device["binding"])),
    )


def _gigahertz(frequency_hz: float | None) -> str:
    """The frequency in GHz; a dash if none is feasible, a result of the algorithm as printed only."""
    if frequency_hz is None:
        return "–"
    return f"{frequency_hz / 1e9:.3f}"
