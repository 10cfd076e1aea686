"""Equations 1 to 10 against written-out arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfit.wireless.energy import compute_energy_j, compute_time_s, transmit_energy_j, transmit_time_s
from fedfit.wireless.rate import power_for_rate_w, rate_bits_per_s


def test_shannon_rates() -> None:
    """log2(1 + 1023) = 10, log2(1 + 1) = 1, log2(1 + 3) = 2; 2e6 Hz."""
    noise = 1e-13
    gains = np.array([1023e-13, 1e-13, 3e-13, 0.0])
    np.testing.assert_allclose(rate_bits_per_s(2e6, gains, 1.0, noise), [2e7, 2e6, 4e6, 0], rtol=1e-14)


def test_weak_signals_keep_their_digits() -> None:
    """For x of 1e-18, log2(1 + x) = x/ln 2; 1 + x is 1 in floats."""
    assert rate_bits_per_s(1.0, 1e-18, 1.0, 1.0) == pytest.approx(1e-18 / math.log(2), rel=1e-15)


@given(
    st.floats(1e-3, 1e10), st.floats(1e-17, 1e-3), st.floats(1e-6, 1e3), st.floats(1e-19, 1e-6).filter(lambda value: value > 0)
)
def test_equation_7_inverts_equation_6(bandwidth: float, gain: float, power: float, noise: float) -> None:
    rate = rate_bits_per_s(bandwidth, gain, power, noise)
    bits_per_hz = float(rate) / bandwidth
    # A relative error of the rate is one of rate/B·ln 2 of the power.
    assert power_for_rate_w(rate, bandwidth, gain, noise) == pytest.approx(power, rel=1e-14 * (1 + bits_per_hz))


def test_energy_and_time() -> None:
    """3e9 cycles at 1.5 GHz take 2 s; 1e-27·2·(1.5e9)³ = 6.75 J. 1e6 bits at 4e6 bit/s take 0.25 s; at 0.2 W 0.05 J."""
    assert compute_time_s(3e9, 1.5e9) == 2.0
    assert compute_energy_j(1e-27, 3e9, 1.5e9) == pytest.approx(6.75, rel=1e-15)
    assert compute_energy_j(1e-27, 3e9, 1.5e9) == pytest.approx(1e-27 * compute_time_s(3e9, 1.5e9) * 1.5e9**3, rel=1e-15)
    assert transmit_time_s(1e6, 4e6) == 0.25
    assert transmit_energy_j(0.2, 0.25) == pytest.approx(0.05, rel=1e-15)
