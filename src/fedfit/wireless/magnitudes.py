"""Values that are off by orders of magnitude, with their consequences in words. The user keeps or mends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedfit.units import format_seconds
from fedfit.wireless.channel import Links
from fedfit.wireless.fleet import Fleet


@dataclass(frozen=True)
class _Bits:
    """M·Q of rank 1 in each direction."""

    uplink: float
    downlink: float


_Meaning = Callable[[Fleet, Links, _Bits, int], str]


def magnitude_warnings(fleet: Fleet, links: Links, uplink_bits: float, downlink_bits: float) -> list[str]:
    """One line for each key with a value outside its usual range, about the device that is furthest off.

    Args:
        uplink_bits: M·Q of rank 1, to say how long it takes to send.
        downlink_bits: the same of the downlink.
    """
    with np.errstate(all="ignore"):  # values far off may overflow, and are reported all the same
        return _lines(fleet, links, _Bits(uplink_bits, downlink_bits))


def _lines(fleet: Fleet, links: Links, bits: _Bits) -> list[str]:
    lines = []
    for name, (low, high, meaning) in _USUAL.items():
        values = getattr(fleet, name).max(axis=1) if getattr(fleet, name).ndim == 2 else getattr(fleet, name)
        off = np.nan_to_num(np.maximum(low / values, values / high), nan=0.0, posinf=np.inf)
        if (off > 1).any():
            row = int(off.argmax())
            others = int((off > 1).sum()) - 1
            more = f" (and {others:,} more devices)" if others else ""
            usual = f"usual are {low:g} to {high:g}"
            says = meaning(fleet, links, bits, row)
            lines.append(f"{name} = {values[row]:.6g} of {fleet.id_of(row)}{more}: {usual}; it implies {says}")
    return lines


def _uplink(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    return _rate(float(links.uplink_bits_per_s[row]), bits.uplink, "uplink")


def _downlink(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    return _rate(float(links.downlink_bits_per_s[row]), bits.downlink, "downlink")


def _rate(rate: float, bits: float, way: str) -> str:
    return f"{rate:.4g} bit/s of {way}, and {format_seconds(bits / rate) if rate > 0 else 'forever'} to send rank 1"


def _noise(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    ratio = float(links.uplink_gain[row] * fleet.transmit_power_w[row] / fleet.noise_w[row])
    decibels = f"{10 * np.log10(ratio):.0f} dB" if ratio > 0 else "nothing"
    return f"a signal-to-noise ratio of {decibels}, " + _uplink(fleet, links, bits, row)


def _cpu(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    watts = float(fleet.capacitance[row] * fleet.max_frequency_hz[row] ** 3)
    return f"a CPU of {fleet.max_frequency_hz[row] / 1e9:.4g} GHz that takes Ω·f³ = {watts:.4g} W at full speed"


def _budget(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    watts = float(fleet.capacitance[row] * fleet.max_frequency_hz[row] ** 3)
    return f"{format_seconds(float(fleet.energy_budget_j[row]) / watts)} of computing at full speed ({watts:.4g} W) in a round"


def _circuit(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    share = float(fleet.circuit_energy_j[row] / fleet.energy_budget_j[row])
    return f"{share:.3g} times the energy budget, before anything is computed or sent"


def _samples(fleet: Fleet, links: Links, bits: _Bits, row: int) -> str:
    return f"{fleet.samples[row]:.4g} samples trained in every round"


_USUAL: dict[str, tuple[float, float, _Meaning]] = {
    "uplink_bandwidth_hz": (1e3, 1e10, _uplink),
    "downlink_bandwidth_hz": (1e3, 1e10, _downlink),
    "transmit_power_w": (1e-4, 1e2, _noise),
    "downlink_power_w": (1e-3, 1e4, _downlink),
    "uplink_gain": (1e-17, 1.0, _noise),
    "downlink_gain": (1e-17, 1.0, _downlink),
    "noise_w": (1e-19, 1e-6, _noise),
    "max_frequency_hz": (1e7, 1e11, _cpu),
    "capacitance": (1e-30, 1e-22, _cpu),
    "energy_budget_j": (1e-3, 1e7, _budget),
    "circuit_energy_j": (0.0, 1e5, _circuit),
    "samples": (0.0, 1e9, _samples),
}
