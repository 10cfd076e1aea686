"""Rates over one sub-band: equations 6, 7 and 10 of the system model. Scalars or arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

_LN2 = float(np.log(2.0))


def rate_bits_per_s(bandwidth_hz: Any, gain: Any, power_w: Any, noise_w: Any) -> Any:
    """Equations 6 and 10: ``s = B·log2(1 + h·P/N0)``; ``N0`` is the noise power in the whole sub-band."""
    return bandwidth_hz * np.log1p(gain * power_w / noise_w) / _LN2


def power_for_rate_w(rate_bits_per_s: Any, bandwidth_hz: Any, gain: Any, noise_w: Any) -> Any:
    """Equation 7, the inverse in ``P``: ``P = (2^{s/B} − 1)·N0/h``."""
    return np.expm1(rate_bits_per_s / bandwidth_hz * _LN2) * noise_w / gain
