"""Warnings of values that are off by orders of magnitude."""

import numpy as np
import pytest

from fedfit.experiment.fleet_file import fleet_of, parse_fleet, read_fleet_file, shipped_fleets
from fedfit.wireless.channel import mean_links
from fedfit.wireless.fleet import Fleet
from fedfit.wireless.magnitudes import magnitude_warnings

PLAIN = "[fleet]\nsamples = 1000\nuplink_gain = 1.023e-9\ndownlink_gain = 1.023e-9\nnoise_w = 1e-13\ntransmit_power_w = 0.1\n"
BITS = 294_912.0  # of rank 1 on six matrices of 768 × 768, 32 bits a parameter


def warnings(text: str) -> list[str]:
    found = fleet_of(parse_fleet(PLAIN + text))
    return magnitude_warnings(found, mean_links(found), BITS, BITS)


@pytest.mark.parametrize("name", shipped_fleets())
def test_shipped_fleets_are_silent(name: str) -> None:
    found: Fleet = fleet_of(read_fleet_file(name))
    assert magnitude_warnings(found, mean_links(found), BITS, BITS) == []


def test_silence_for_the_defaults() -> None:
    assert warnings("devices = 2\n") == []


def test_a_bandwidth_in_megahertz() -> None:
    """1 Hz at 10 bit/s/Hz is 10 bit/s; 294,912 bits take 29,491.2 s, which is 8 h 11 min."""
    (line,) = warnings("devices = 1\nuplink_bandwidth_hz = 1\n")
    assert line.startswith("uplink_bandwidth_hz = 1 of device-0: usual are 1000 to 1e+10; it implies 10 bit/s of uplink")
    assert "8 h" in line


def test_the_worst_is_named_and_the_others_counted() -> None:
    text = "[[device]]\nnoise_w = 1e-3\n[[device]]\nid = 'worst'\nnoise_w = 1.0\n[[device]]\n"
    (line,) = warnings(text)
    assert "noise_w = 1 of worst (and 1 more devices)" in line
    assert "-100 dB" in line  # 1.023e-10 W of 1 W


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_frequency_hz = 2.0", "Ω·f³"),  # meant in GHz
        ("capacitance = 1.0", "Ω·f³ = 8e+27 W"),
        ("energy_budget_j = 1e-6\nmax_frequency_hz = 1e9\ncapacitance = 1e-27", "of computing at full speed (1 W)"),
        ("circuit_energy_j = 1e6\nenergy_budget_j = 1e3", "1e+03 times the energy budget"),
        ("downlink_power_w = 1e6", "of downlink"),
        ("uplink_gain = 100", "signal-to-noise ratio"),
        ("downlink_gain = 1e-30", "of downlink"),
    ],
)
def test_what_it_implies(text: str, says: str) -> None:
    kept = [line for line in PLAIN.splitlines() if line.split(" =")[0] not in text]
    found = fleet_of(parse_fleet("\n".join([*kept, "devices = 1", text])))
    lines = magnitude_warnings(found, mean_links(found), BITS, BITS)
    assert any(says in line for line in lines), lines


def test_samples_out_of_proportion() -> None:
    found = fleet_of(parse_fleet("[fleet]\ndevices = 1\nsamples = 1e12\n"))
    (line,) = magnitude_warnings(found, mean_links(found), BITS, BITS)
    assert "1e+12 samples trained in every round" in line


@pytest.mark.filterwarnings("error")
def test_a_dead_link_is_told() -> None:
    """So far away that the gain is 0 in floats."""
    lines = warnings("devices = 1\ndistance_m = 1e200\n")
    assert any(line.startswith("uplink_gain = 0 of device-0") and "forever to send rank 1" in line for line in lines)
    assert not np.isnan([len(line) for line in lines]).any()


def test_each_direction_takes_as_long_as_its_own_bits() -> None:
    """10 bit/s both ways; a tenth of the bits goes up."""
    found = fleet_of(parse_fleet(PLAIN + "devices = 1\nuplink_bandwidth_hz = 1\ndownlink_bandwidth_hz = 1\n"))
    up, down = magnitude_warnings(found, mean_links(found), BITS / 10, BITS)
    assert up.endswith("10 bit/s of uplink, and 49 min 9 s to send rank 1")
    assert "of downlink, and 6 h" in down
