"""The laws of the fading against sums of squared complex normals, and what the draws depend on."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from fedfit.experiment.fleet_file import fleet_of, parse_fleet
from fedfit.fleet_settings import ChannelSettings, FleetFile
from fedfit.randomness import derive_seed
from fedfit.wireless.channel import Links, draw_links, fading, mean_links

COUNT = 20_000


def file_of(devices: int = COUNT, text: str = "") -> FleetFile:
    return parse_fleet(f"[fleet]\ndevices = {devices}\nsamples = 10\n{text}")


def combined(antennas: int, factor: float, seed: int = 0) -> np.ndarray:
    """Brute force: each antenna a complex normal of power 1/(K + 1) around a direct path of power K/(K + 1); squares summed."""
    draw = np.random.default_rng(seed)
    parts = draw.standard_normal((COUNT, antennas, 2)) * np.sqrt(0.5 / (factor + 1))
    parts[..., 0] += np.sqrt(factor / (factor + 1))
    return np.asarray((parts**2).sum(axis=(1, 2)))


@pytest.mark.parametrize("antennas", [1, 2, 8])
@pytest.mark.parametrize(("law", "factor"), [("rayleigh", 0.0), ("rician", 0.0), ("rician", 0.7), ("rician", 5.0)])
def test_the_law_is_that_of_its_antennas(law: str, factor: float, antennas: int) -> None:
    """Two samples of 20,000: a wrong law of a mean off by 3 % has a p-value below 1e-4; the seeds are fixed."""
    channel = ChannelSettings(fading=law, rician_factor=factor, antennas=antennas)
    fleet = fleet_of(file_of(text=f"[channel]\nantennas = {antennas}\n"))
    drawn = fading(fleet, channel, seed=5)[:, 0]
    assert drawn.shape == (COUNT,)
    assert stats.kstest(drawn, combined(antennas, factor)).pvalue > 0.01
    assert drawn.mean() == pytest.approx(antennas, abs=5 * drawn.std() / np.sqrt(COUNT))


def test_one_antenna_of_rayleigh_is_exponential() -> None:
    fleet = fleet_of(file_of())
    drawn = fading(fleet, ChannelSettings(fading="rayleigh"), seed=1)[:, 0]
    assert stats.kstest(drawn, "expon").pvalue > 0.01


def test_without_fading_the_antennas_add_up() -> None:
    fleet = fleet_of(file_of(4, "[channel]\nantennas = 3\n"))
    assert fading(fleet, ChannelSettings(), seed=1).tolist() == [[3.0]] * 4
    assert mean_links(fleet).uplink_gain.tolist() == [3e-7] * 4


def test_the_direct_path_narrows() -> None:
    """The variance of one antenna is (1 + 2K)/(1 + K)², 1 for Rayleigh."""
    fleet = fleet_of(file_of())
    for factor in (0.0, 1.0, 10.0):
        drawn = fading(fleet, ChannelSettings(fading="rician", rician_factor=factor), seed=2)
        assert drawn.var() == pytest.approx((1 + 2 * factor) / (1 + factor) ** 2, rel=0.08)


RAYLEIGH, RICIAN = ChannelSettings(fading="rayleigh"), ChannelSettings(fading="rician")
PLACES = "x_m = {uniform = [-500, 500]}\ny_m = {uniform = [-500, 500]}\n"
SERVERS = "[[server]]\nx_m = -300.0\n[[server]]\nx_m = 300.0\nantennas = 4\n"


@pytest.mark.parametrize("channel", [RAYLEIGH, RICIAN], ids=["rayleigh", "rician"])
@pytest.mark.parametrize("text", ["", PLACES + SERVERS], ids=["one server", "two servers"])
def test_more_devices_change_no_draw(channel: ChannelSettings, text: str) -> None:
    few, many = (fleet_of(file_of(count, text)) for count in (7, 50))
    first, second = draw_links(few, channel, 3, 4), draw_links(many, channel, 3, 4)
    for name in Links.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name)[:7])


def test_rounds_and_seeds() -> None:
    fleet = fleet_of(file_of(200))

    def up(seed: int, number: int) -> np.ndarray:
        return draw_links(fleet, RAYLEIGH, seed, number).uplink_gain

    np.testing.assert_array_equal(up(1, 1), up(1, 1))
    for other in (up(1, 2), up(2, 1)):
        assert (up(1, 1) != other).all()
        assert abs(np.corrcoef(up(1, 1), other)[0, 1]) < 0.25


def test_both_ways_are_independent_unless_reciprocal() -> None:
    fleet = fleet_of(file_of(5000))
    links = draw_links(fleet, RAYLEIGH, 0, 1)
    assert abs(np.corrcoef(links.uplink_gain, links.downlink_gain)[0, 1]) < 0.06  # 4 / sqrt(5000)
    same = draw_links(fleet, replace(RAYLEIGH, reciprocal=True), 0, 1)
    np.testing.assert_array_equal(same.uplink_gain, same.downlink_gain)


def test_the_server_with_the_best_uplink_serves() -> None:
    """Two servers 600 m apart; three devices at −250, 0 and 250 m. The second server's 4 antennas win in the middle."""
    text = SERVERS + "".join(f"[[device]]\nx_m = {x}\ny_m = 0.0\n" for x in (-250.0, 0.0, 250.0))
    fleet = fleet_of(parse_fleet("[fleet]\nsamples = 10\n" + text))
    links = mean_links(fleet)
    assert links.server.tolist() == [0, 1, 1]
    # Gain 1e-3·d^-3: 50 m from the first; 300 m with four antennas; 50 m with four.
    np.testing.assert_allclose(links.uplink_gain, [1e-3 * 50**-3, 4e-3 * 300**-3, 4e-3 * 50**-3], rtol=1e-12)


def test_the_server_is_that_of_the_round() -> None:
    """Of drawn gains, of the uplink: the downlink follows to the server that it is, even if another would send better."""
    fleet = fleet_of(file_of(400, PLACES + SERVERS))
    drawn = draw_links(fleet, RAYLEIGH, 0, 1)
    both = fleet.uplink_gain * fading(fleet, RAYLEIGH, derive_seed(0, "fading", "uplink", 1))
    assert (drawn.server == both.argmax(axis=1)).all()
    np.testing.assert_array_equal(drawn.uplink_gain, both.max(axis=1))
    down = fleet.downlink_gain * fading(fleet, RAYLEIGH, derive_seed(0, "fading", "downlink", 1))
    np.testing.assert_array_equal(drawn.downlink_gain, down[np.arange(400), drawn.server])
    assert (down.argmax(axis=1) != drawn.server).sum() > 40


def test_rates_follow_from_gains() -> None:
    """1 MHz, power 1 W down, noise 4e-15 W: SNR 1e-7/4e-15 = 2.5e7, log2(2.5e7 + 1) = 24.575..."""
    links = mean_links(fleet_of(file_of(2)))
    np.testing.assert_allclose(links.downlink_bits_per_s, 1e6 * np.log2(2.5e7 + 1), rtol=1e-12)


def test_rows() -> None:
    links = draw_links(fleet_of(file_of(9)), RAYLEIGH, 0, 1)
    part = links.take(np.array([4, 2]))
    assert [part.of(0), part.of(1)] == [links.of(4), links.of(2)]
    assert links.of(4).uplink_bits_per_s == links.uplink_bits_per_s[4]
