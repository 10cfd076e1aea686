"""A plan as text for ``fedfit plan``, and as arrays for its figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfit.reports.style import binding_label, binding_order

NAMED = 3
"""Up to this many devices are named; more are counted."""

Words = npt.NDArray[np.str_]
Ranks = npt.NDArray[np.int64]


def plan_summary(plan: Mapping[str, Any]) -> str:
    """Lines of text: the ranks and the limits that stop the next one, broken limits, and devices that cannot take part."""
    devices, infeasible = plan["devices"], plan.get("infeasible", [])
    lines = []
    if not devices:
        lines.append(no_devices_text(plan))
    elif plan.get("rank") is not None:
        lines.append(_common_rank_line(plan["rank"], devices))
    else:
        lines.append(_own_ranks_line(devices))
    if plan.get("transport"):
        lines.append(_packets_line(plan["transport"]))
    broken = [device for device in devices if device.get("breaks")]
    if broken:
        lines.append(_broken_limits_line(broken))
    if infeasible:
        lines.append(_infeasible_line(infeasible))
    return "\n".join(lines)


def _packets_line(packets: Mapping[str, Any]) -> str:
    up, down = (packets[f"{way}_bits_per_parameter"] for way in ("uplink", "downlink"))
    beside = (packets[f"{way}_bits_fixed"] / 8 for way in ("uplink", "downlink"))
    more = " and ".join(f"{size:,.0f}" for size in beside)
    return f"packets: {up:.4g} bits a parameter up, {down:.4g} down; {more} bytes besides, for head, names and framing"


def no_devices_text(plan: Mapping[str, Any]) -> str:
    """The text for a plan without devices; its ``remedy`` is null if some devices could take part without the others."""
    return "no device can take part" if plan["remedy"] else "no plan: not every device can take part"


def highest_ranks(plan: Mapping[str, Any]) -> tuple[Ranks, Words]:
    """For each feasible device: its highest rank ``r_i*``, and the limit that stops the next rank."""
    devices = plan["devices"]
    ranks = np.fromiter((device["max_rank"] for device in devices), dtype=np.int64, count=len(devices))
    return ranks, np.array([device["binding"] for device in devices], dtype=np.str_)


def _common_rank_line(rank: int, devices: Sequence[Mapping[str, Any]]) -> str:
    stoppers = [device for device in devices if device["max_rank"] == rank]
    text = f"rank {rank} for {_all_devices(len(devices))}"
    if not stoppers:
        return text
    if len(stoppers) <= NAMED:
        return f"{text}; " + ", ".join(
            f"{each['id']} stops rank {rank + 1}: {binding_label(each['binding'])}" for each in stoppers
        )
    return f"{text}; {len(stoppers):,} of them stop rank {rank + 1}: {_counts_by_limit(stoppers)}"


def _own_ranks_line(devices: Sequence[Mapping[str, Any]]) -> str:
    ranks = np.fromiter((device["rank"] for device in devices), dtype=np.int64, count=len(devices))
    low, high = int(ranks.min()), int(ranks.max())
    spread = f"rank {low}" if low == high else f"ranks {low} to {high} (median {np.median(ranks):g})"
    return f"{spread} for {_all_devices(len(devices))}; the next rank is stopped by: {_counts_by_limit(devices)}"


def _counts_by_limit(devices: Sequence[Mapping[str, Any]]) -> str:
    counted = Counter(device["binding"] for device in devices)
    return ", ".join(f"{binding_label(word)} {counted[word]:,}" for word in binding_order(counted))


def _broken_limits_line(devices: Sequence[Mapping[str, Any]]) -> str:
    shown = ", ".join(f"{each['id']} (its {' and '.join(map(binding_label, each['breaks']))})" for each in devices[:NAMED])
    more = f", and {len(devices) - NAMED:,} more" if len(devices) > NAMED else ""
    return f"this plan breaks the limits of {len(devices):,}: {shown}{more}"


def _infeasible_line(infeasible: Sequence[Mapping[str, Any]]) -> str:
    shown = ", ".join(f"{each['id']} ({each['reason']})" for each in infeasible[:NAMED])
    more = f", and {len(infeasible) - NAMED:,} more" if len(infeasible) > NAMED else ""
    return f"{len(infeasible):,} cannot take part: {shown}{more}"


def _all_devices(count: int) -> str:
    return "the only device" if count == 1 else f"all {count:,} devices"
