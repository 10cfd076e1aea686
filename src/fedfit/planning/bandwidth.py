"""Sharing a total band among the devices so that the common rank is highest; the paper gives equal sub-bands.

A device of sub-band B has noise ``n0·B`` (its ``noise_w`` is spread over its present sub-band), so its rate ``B·log2(1 +
hP/(n0·B))`` rises with B, and with it everything that C1 and C2 leave for computing. Hence each device has a least band for a
rank; the rank can be had when the least bands sum to no more than the total; and that sum rises with the rank. So: bisection on
the rank, and inside it bisection on every device's band at once. One sub-band serves a device up and down, as in the paper.

The answer is exact up to the width of the inner bisection, and says so: ``certain`` is true when even the lower ends of the
bands of the next rank need more than the whole band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfit.planning.feasible import feasible
from fedfit.planning.problem import Problem
from fedfit.wireless.channel import Links
from fedfit.wireless.fleet import Fleet
from fedfit.wireless.rate import rate_bits_per_s

_STEPS = 60
"""Halvings of the logarithm of the band; from 1 mHz to the total, the width at the end is below a rounding error."""
_LEAST_HZ = 1e-3


@dataclass(frozen=True)
class Share:
    """The highest common rank over a shared band, 0 where there is none; ``band_hz`` ``(devices,)`` sums to the total.

    What the least bands leave is given out in proportion to them.
    """

    rank: int
    band_hz: np.ndarray
    certain: bool


def share_band(problem: Problem, fleet: Fleet, links: Links, total_hz: float) -> Share:
    """The share of ``total_hz`` under which the common rank of all devices is highest."""
    if len(problem) == 0:
        return Share(0, np.zeros(0), certain=True)
    highest = int(problem.max_rank.min())
    low, high = 0, highest + 1
    bands = np.full(len(problem), total_hz / len(problem))
    needed_next = None
    while high - low > 1:
        middle = (low + high) // 2
        ends = least_bands_hz(problem, fleet, links, middle, total_hz)
        if ends[1].sum() <= total_hz:
            low, bands = middle, ends[1]
        else:
            high, needed_next = middle, ends[0].sum()
    certain = low == highest or (needed_next is not None and bool(needed_next > total_hz))
    return Share(low, bands * (total_hz / bands.sum()), certain)


def servable(problem: Problem, fleet: Fleet, links: Links, total_hz: float) -> np.ndarray:
    """Which devices to keep so that as many as possible do rank 1 on ``total_hz``: those of the least bands, bool."""
    needed = least_bands_hz(problem, fleet, links, 1, total_hz)[1]
    order = needed.argsort(kind="stable")
    kept = np.zeros(len(problem), dtype=bool)
    kept[order] = needed[order].cumsum() <= total_hz
    return kept


def least_bands_hz(problem: Problem, fleet: Fleet, links: Links, rank: int, total_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """The least band of every device for ``rank``, between two ends: the lower does not do, the upper does.

    Where not even the whole band does, both ends are infinite.
    """
    low = np.full(len(problem), np.log(min(_LEAST_HZ, total_hz * 1e-12)))
    high = np.full(len(problem), np.log(total_hz))
    reachable = feasible(over_bands(problem, fleet, links, np.exp(high)), rank)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        fits = feasible(over_bands(problem, fleet, links, np.exp(middle)), rank)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return np.where(reachable, np.exp(low), np.inf), np.where(reachable, np.exp(high), np.inf)


def over_bands(problem: Problem, fleet: Fleet, links: Links, band_hz: np.ndarray) -> Problem:
    """``problem`` with the rates that sub-bands of ``band_hz`` give."""
    uplink_noise_w = fleet.noise_w / fleet.uplink_bandwidth_hz * band_hz
    downlink_noise_w = fleet.noise_w / fleet.downlink_bandwidth_hz * band_hz
    return problem.with_rates(
        rate_bits_per_s(band_hz, links.uplink_gain, fleet.transmit_power_w, uplink_noise_w),
        rate_bits_per_s(band_hz, links.downlink_gain, fleet.downlink_power_w, downlink_noise_w),
    )
