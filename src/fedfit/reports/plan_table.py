"""A plan as a table for a terminal: ranks, frequencies, and how much of the deadline and the energy budget they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fedfit.reports.plan_summary import plan_summary
from fedfit.units import duration_scale, energy_scale

__all__ = ["plan_summary", "plan_table"]

HEAD_DEVICES, TAIL_DEVICES = 20, 3
"""Devices that a terminal shows of a large fleet."""
HEADINGS = (
    "Device",
    "Max\nrank",
    "Rank",
    "Freq.\n(GHz)",
    "Range\n(GHz)",
    "Latency\nof deadline",
    "Energy\nof budget",
    "Stops\nnext",
)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A line a feasible device, for 80 columns; the middle of a large fleet is left out, its size is in the title.

    ``Max rank`` is the device's own highest rank, ``Rank`` the one that it is given, the frequency the one chosen out of
    the range that this rank allows.
    """
    devices = plan["devices"]
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left", title=Text(_title(plan)))
    for heading in HEADINGS:
        text = heading == "Device"
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=not text, overflow="fold" if text else "ellipsis"
        )
    long = len(devices) > HEAD_DEVICES + TAIL_DEVICES + 1
    for device in devices[:HEAD_DEVICES] if long else devices:
        table.add_row(*_cells(device, plan.get("deadline_s")))
    if long:
        table.add_row(*["…"] * len(HEADINGS))
        for device in devices[-TAIL_DEVICES:]:
            table.add_row(*_cells(device, plan.get("deadline_s")))
    return table


def share_of(value: float, limit: float | None, scale: Callable[[float], tuple[float, str]]) -> str:
    """``589.1`` s of ``600`` s → ``'589.1/600 s'``, in the unit that suits the limit; without a limit the value alone."""
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


def _cells(device: Mapping[str, Any], deadline_s: float | None) -> tuple[str | Text, ...]:
    low, high = device["frequency_range_hz"]
    return (
        Text(str(device["id"])),
        str(device["max_rank"]),
        str(device["rank"]),
        _gigahertz(device["frequency_hz"]),
        f"{_gigahertz(low)}–{_gigahertz(high)}",
        share_of(device["latency_s"]["total"], deadline_s, duration_scale),
        share_of(device["energy_j"]["total"], device["energy_budget_j"], energy_scale),
        str(device["binding"]),
    )


def _gigahertz(frequency_hz: float) -> str:
    return f"{frequency_hz / 1e9:.3f}"
