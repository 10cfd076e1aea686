"""Devices drawn from their settings: laws of the draws, places, and overrides."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from fedfit.experiment.fleet_file import fleet_of, parse_fleet, read_fleet_file
from fedfit.wireless.fleet import Fleet

COUNT = 20_000


def fleet(text: str, devices: int = COUNT) -> Fleet:
    return fleet_of(parse_fleet(f"[fleet]\ndevices = {devices}\nsamples = 10\n{text}"))


LAWS = {
    "{uniform = [0.2, 1.0]}": stats.uniform(0.2, 0.8),
    "{loguniform = [0.01, 100]}": stats.loguniform(0.01, 100),
    "{lognormal = [2.0, 0.5]}": stats.lognorm(0.5, scale=2.0),
}


@pytest.mark.parametrize("text", LAWS)
def test_draws_follow_their_law(text: str) -> None:
    values = fleet(f"transmit_power_w = {text}").transmit_power_w
    assert stats.kstest(values, LAWS[text].cdf).pvalue > 0.01


def test_choices_are_equally_likely() -> None:
    values = fleet("max_frequency_hz = {choice = [1e9, 2e9, 3e9, 3e9]}").max_frequency_hz
    assert set(values) == {1e9, 2e9, 3e9}
    counts = [int((values == value).sum()) for value in (1e9, 2e9, 3e9)]
    assert stats.chisquare(counts, [COUNT / 4, COUNT / 4, COUNT / 2]).pvalue > 0.01


@pytest.mark.parametrize("law", ["{uniform = [1, 4]}", "{loguniform = [1, 100]}", "{lognormal = [1.0, 2.0]}", "{choice = [3]}"])
def test_samples_and_layers_are_whole_and_at_least_one(law: str) -> None:
    for name in ("samples", "layers"):
        text = f"[fleet]\ndevices = 5000\nsamples = 1\n{name} = {law}\n".replace("samples = 1\nsamples", "samples")
        values = getattr(fleet_of(parse_fleet(text)), name)
        assert (values == np.rint(values)).all()
        assert values.min() >= 1


def test_more_devices_change_no_value() -> None:
    text = "\n".join(
        f"{name} = {law}"
        for name, law in zip(
            ("transmit_power_w", "capacitance", "energy_budget_j", "max_frequency_hz", "battery_j", "x_m", "y_m"),
            (*LAWS, "{choice = [1e9, 2e9, 3e9]}", *LAWS),
            strict=True,
        )
    )
    text += "\n[channel]\nshadowing_db = 6.0\n[[device]]\nnoise_w = {uniform = [1e-14, 1e-13]}\n"
    few, many = fleet(text, 5), fleet(text, 60)
    for name in Fleet.__dataclass_fields__:
        if name not in ("own_ids", "antennas"):
            np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:5], err_msg=name)


def test_keys_are_drawn_apart_and_by_the_seed() -> None:
    text = "transmit_power_w = {uniform = [0, 1]}\ncapacitance = {uniform = [0, 1]}\n".replace("[0,", "[1e-9,")
    first, other = fleet(text + "seed = 0\n"), fleet(text + "seed = 1\n")
    assert abs(np.corrcoef(first.transmit_power_w, first.capacitance)[0, 1]) < 0.03
    assert (first.transmit_power_w != other.transmit_power_w).all()
    np.testing.assert_array_equal(first.capacitance, fleet(text + "seed = 0\n").capacitance)


def test_a_device_overrides_the_fleet() -> None:
    found = fleet_of(
        parse_fleet("""
            [fleet]
            devices = 4
            samples = 100
            noise_w = 1e-13
            [[device]]
            id = "first"
            samples = 7
            [[device]]
            noise_w = 2e-13
            battery_j = 50
            layers = 2
            """)
    )
    assert [found.id_of(row) for row in range(4)] == ["first", "device-1", "device-2", "device-3"]
    assert found.samples.tolist() == [7, 100, 100, 100]
    assert found.noise_w.tolist() == [1e-13, 2e-13, 1e-13, 1e-13]
    assert found.battery_j.tolist() == [np.inf, 50, np.inf, np.inf]
    assert found.layers.tolist() == [0, 2, 0, 0]
    part = found.take([2, 0])
    assert [part.id_of(0), part.id_of(1)] == ["device-2", "first"]
    assert part.samples.tolist() == [100, 7]
    assert found.with_samples([1, 2, 3, 4]).samples.tolist() == [1, 2, 3, 4]


def test_path_loss_by_distance() -> None:
    """1e-3·d^-3: 1e-6 at 10 m, 1e-9 at 100 m; nothing is gained below a metre."""
    text = "".join(f"[[device]]\ndistance_m = {d}\n" for d in (10, 100, 1, 0.01))
    found = fleet(text, 4)
    for gain in (found.uplink_gain, found.downlink_gain):
        np.testing.assert_allclose(gain[:, 0], [1e-6, 1e-9, 1e-3, 1e-3], rtol=1e-12)
    steeper = fleet("distance_m = 10\n[channel]\nreference_gain = 1e-2\npath_loss_exponent = 2\n", 1)
    np.testing.assert_allclose(steeper.uplink_gain, [[1e-4]], rtol=1e-12)


def test_only_devices_with_a_place_lose_their_gain() -> None:
    found = fleet("uplink_gain = 5e-8\n[[device]]\ndistance_m = 10\n", 2)
    np.testing.assert_allclose(found.uplink_gain[:, 0], [1e-6, 5e-8], rtol=1e-12)


def test_positions() -> None:
    """(30, 40) is 50 m from the middle; from (30, 0) it is 40 m."""
    found = fleet("x_m = 30\ny_m = 40\n[[server]]\n[[server]]\nx_m = 30.0\n", 1)
    np.testing.assert_allclose(found.uplink_gain, [[1e-3 * 50**-3, 1e-3 * 40**-3]], rtol=1e-12)


def test_shadowing_is_normal_in_decibels() -> None:
    found = fleet("x_m = 10\ny_m = 0\n[channel]\nshadowing_db = 6.0\n[[server]]\n[[server]]\n")
    decibels = 10 * np.log10(found.uplink_gain / 1e-6)
    for server in (0, 1):
        assert stats.kstest(decibels[:, server], stats.norm(0, 6).cdf).pvalue > 0.01
    assert abs(np.corrcoef(decibels.T)[0, 1]) < 0.03
    np.testing.assert_array_equal(found.uplink_gain, found.downlink_gain)


def test_antennas_by_server() -> None:
    text = "x_m = 1\ny_m = 1\n[channel]\nantennas = 2\n[[server]]\n[[server]]\nantennas = 5\n"
    assert fleet(text, 1).antennas == (2, 5)


def test_the_shipped_city() -> None:
    city = fleet_of(read_fleet_file("city"))
    assert len(city) == 1000
    assert city.uplink_gain.shape == (1000, 3)
    assert set(city.max_frequency_hz) == {0.8e9, 1.5e9, 2.4e9}
    assert ((city.samples >= 100) & (city.samples <= 4000)).all()
    assert city.antennas == (4, 4, 8)
