"""Block fading: power gains that are drawn anew in every round, and the rates they give.

The server combines its antennas for the greatest gain (maximum-ratio combining up, maximum-ratio transmission down), so the
gains of its antennas add up. The sums have closed laws, from which one number a link is drawn:

    Rayleigh, M antennas    Gamma(M, 1)                                       mean M
    Rician with factor K    noncentral χ²(2M, 2KM) / (2(K + 1))               mean M
    none                    M
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfit.fleet_settings import ChannelSettings
from fedfit.plans import LinkState
from fedfit.randomness import derive_seed
from fedfit.wireless.fleet import Fleet
from fedfit.wireless.rate import rate_bits_per_s


@dataclass(frozen=True)
class Links:
    """The radio of every device in one round; arrays ``(devices,)``. ``server`` is the one with the best uplink."""

    uplink_gain: np.ndarray
    downlink_gain: np.ndarray
    uplink_bits_per_s: np.ndarray
    downlink_bits_per_s: np.ndarray
    server: np.ndarray

    def of(self, row: int) -> LinkState:
        """One device's link."""
        return LinkState(
            uplink_gain=float(self.uplink_gain[row]),
            downlink_gain=float(self.downlink_gain[row]),
            uplink_bits_per_s=float(self.uplink_bits_per_s[row]),
            downlink_bits_per_s=float(self.downlink_bits_per_s[row]),
            server=int(self.server[row]),
        )

    def take(self, rows: np.ndarray) -> Links:
        """The links of ``rows`` alone, in that order."""
        return Links(
            self.uplink_gain[rows],
            self.downlink_gain[rows],
            self.uplink_bits_per_s[rows],
            self.downlink_bits_per_s[rows],
            self.server[rows],
        )


def mean_links(fleet: Fleet) -> Links:
    """Links at their mean gains, as a plan without rounds uses them."""
    antennas = np.asarray(fleet.antennas, dtype=np.float64)
    return _best(fleet, fleet.uplink_gain * antennas, fleet.downlink_gain * antennas)


def draw_links(fleet: Fleet, channel: ChannelSettings, seed: int, round_number: int) -> Links:
    """The links of one round, drawn from (seed, round), for all devices in their order."""
    uplink = fading(fleet, channel, derive_seed(seed, "fading", "uplink", round_number))
    downlink = uplink if channel.reciprocal else fading(fleet, channel, derive_seed(seed, "fading", "downlink", round_number))
    return _best(fleet, fleet.uplink_gain * uplink, fleet.downlink_gain * downlink)


def fading(fleet: Fleet, channel: ChannelSettings, seed: int) -> np.ndarray:
    """Power gains relative to one antenna's mean, ``(devices, servers)``, all antennas of a server combined."""
    shape = (len(fleet), len(fleet.antennas))
    antennas = np.broadcast_to(np.asarray(fleet.antennas, dtype=np.float64), shape)
    if channel.fading == "none":
        return antennas
    generator = np.random.default_rng(seed)
    if channel.fading == "rayleigh" or channel.rician_factor == 0:
        return generator.standard_gamma(antennas)
    factor = channel.rician_factor
    return generator.noncentral_chisquare(2 * antennas, 2 * factor * antennas) / (2 * (factor + 1))


def _best(fleet: Fleet, uplink_gain: np.ndarray, downlink_gain: np.ndarray) -> Links:
    server = uplink_gain.argmax(axis=1)
    rows = np.arange(len(fleet))
    up, down = uplink_gain[rows, server], downlink_gain[rows, server]
    return Links(
        uplink_gain=up,
        downlink_gain=down,
        uplink_bits_per_s=rate_bits_per_s(fleet.uplink_bandwidth_hz, up, fleet.transmit_power_w, fleet.noise_w),
        downlink_bits_per_s=rate_bits_per_s(fleet.downlink_bandwidth_hz, down, fleet.downlink_power_w, fleet.noise_w),
        server=server,
    )
