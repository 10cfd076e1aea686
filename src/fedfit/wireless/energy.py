"""Time and energy of computing and sending: equations 1, 3, 4, 8 and 9 of the system model. Scalars or arrays."""

from __future__ import annotations

from typing import Any


def compute_time_s(cycles: Any, frequency_hz: Any) -> Any:
    """Equation 1: ``T = C·|D|/f``, with the cycles of all samples."""
    return cycles / frequency_hz


def compute_energy_j(capacitance: Any, cycles: Any, frequency_hz: Any) -> Any:
    """Equation 3: ``E = Ω·T·f³ = Ω·C·|D|·f²``."""
    return capacitance * cycles * (frequency_hz * frequency_hz)


def transmit_time_s(bits: Any, rate_bits_per_s: Any) -> Any:
    """Equations 4 and 9: ``T = M·Q/s``."""
    return bits / rate_bits_per_s


def transmit_energy_j(power_w: Any, transmit_s: Any) -> Any:
    """Equation 8: ``E = P·T``."""
    return power_w * transmit_s
