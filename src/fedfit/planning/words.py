"""A plan in plain values, device by device, for JSON and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedfit.planning.planner import Solution
from fedfit.planning.problem import Problem
from fedfit.wireless.channel import Links
from fedfit.wireless.fleet import Fleet


def device_words(
    problem: Problem, fleet: Fleet, links: Links, solution: Solution, extra: Mapping[str, np.ndarray] | None = None
) -> list[dict[str, Any]]:
    """One table a device; rates are the problem's, which sharing a band changes. ``max_rank`` is its own highest, ``rank`` what
    it is given, ``binding`` what stops its own next rank; ``breaks`` names the limits that the answer does not keep (only the
    algorithm as printed does that).
    """
    cost = solution.cost
    broken = _broken(problem, solution)
    return [
        {
            "id": fleet.id_of(row),
            "max_rank": int(solution.own_rank[row]),
            "rank": int(solution.rank[row]),
            "frequency_hz": _number(solution.frequency_hz[row]),
            "frequency_range_hz": [_number(solution.low_hz[row]), _number(solution.high_hz[row])],
            "latency_s": {
                "compute": _number(cost.compute_s[row]),
                "uplink": _number(cost.uplink_s[row]),
                "downlink": _number(cost.downlink_s[row]),
                "total": _number(cost.latency_s[row]),
            },
            "energy_j": {
                "compute": _number(cost.compute_j[row]),
                "uplink": _number(cost.uplink_j[row]),
                "circuit": _number(cost.circuit_j[row]),
                "total": _number(cost.energy_j[row]),
            },
            "link": {
                "server": int(links.server[row]),
                "uplink_gain": _number(links.uplink_gain[row]),
                "downlink_gain": _number(links.downlink_gain[row]),
                "uplink_bits_per_s": _number(problem.uplink_bits_per_s[row]),
                "downlink_bits_per_s": _number(problem.downlink_bits_per_s[row]),
            },
            "energy_budget_j": _number(problem.energy_budget_j[row]),
            "binding": solution.binding_of(row),
            "breaks": [name for name, rows in broken.items() if rows[row]],
            **{name: values[row].item() for name, values in (extra or {}).items()},
        }
        for row in range(len(problem))
    ]


_TOLERANCE = 1e-9


def _broken(problem: Problem, solution: Solution) -> dict[str, np.ndarray]:
    room = 1 + _TOLERANCE
    return {
        "deadline": solution.cost.latency_s > problem.deadline_s * room,
        "energy": solution.cost.energy_j > problem.energy_budget_j * room,
        "frequency": ~(solution.frequency_hz <= problem.max_frequency_hz * room),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
