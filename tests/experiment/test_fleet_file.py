"""Fleet files: every fault names its key, its value and what to do, all at once; overrides; draws in and out of a recipe."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.errors import RecipeError
from fedfit.experiment.fleet_file import fleet_of, parse_fleet, read_fleet_file, shipped_fleets
from fedfit.experiment.load import parse_recipe, to_toml
from fedfit.experiment.tables import build_settings, to_plain
from fedfit.fleet_settings import AdaptationSettings, DeviceSettings, FleetFile, FleetSettings, RoundSettings
from fedfit.schema import Draw

PLAIN = "[fleet]\ndevices = 3\nsamples = 10\n"


def faults(text: str, *overrides: str) -> dict[str, tuple[object, str]]:
    """Key → value and remedy of every fault; the message has each of them in full."""
    with pytest.raises(RecipeError) as caught:
        parse_fleet(text, overrides)
    message = str(caught.value)
    assert message.startswith("the fleet has ")
    for fault in caught.value.faults:
        assert f"{fault.key} = {fault.value!r}: {fault.remedy}" in message
        assert fault.remedy
    return {fault.key: (fault.value, fault.remedy) for fault in caught.value.faults}


def test_what_is_not_said_is_the_default() -> None:
    assert parse_fleet(PLAIN) == FleetFile(fleet=FleetSettings(devices=3, samples=10.0))


def test_keys_reach_their_place() -> None:
    file = parse_fleet(
        "[adaptation]\nlayers = 2\n[round]\ndeadline_s = 9\n[fleet]\nsamples = {uniform = [1, 5]}\n"
        "[[device]]\nid = 'a'\nnoise_w = {choice = [1e-13, 2e-13]}\n[[device]]\n"
    )
    assert file.adaptation == AdaptationSettings(layers=2)
    assert file.round == RoundSettings(deadline_s=9.0)
    assert file.fleet == FleetSettings(samples=Draw("uniform", (1.0, 5.0)))
    assert file.device == (DeviceSettings(id="a", noise_w=Draw("choice", (1e-13, 2e-13))), DeviceSettings())


def test_all_faults_at_once() -> None:
    text = (
        "[adaptation]\nlayers = 0\nrank = 4\n[round]\ndeadline_s = -1\n[fleet]\ndevices = 2.5\nsamples = 'many'\n"
        "noise_w = {normal = [1, 2]}\n[[device]]\ncapacitance = 0\nspeed = 3\n[channel]\nfading = 'rayleih'\n[extra]\na = 1\n"
    )
    found = faults(text, "nonsense", "fleet.capacitance={uniform = [2, 1]}")
    assert set(found) == {
        "override",
        "extra",
        "adaptation.layers",
        "adaptation.rank",
        "round.deadline_s",
        "fleet.devices",
        "fleet.samples",
        "fleet.noise_w",
        "fleet.capacitance",
        "device[0].capacitance",
        "device[0].speed",
        "channel.fading",
    }
    assert found["round.deadline_s"] == (-1.0, "must be above 0")
    assert found["adaptation.layers"] == (0, "must be at least 1")
    assert found["channel.fading"][1].startswith("did you mean 'rayleigh'?")
    assert found["fleet.samples"][0] == "many"
    assert "a number or a distribution such as {uniform = [low, high]}" in found["fleet.samples"][1]
    assert found["fleet.devices"] == (2.5, "must be a whole number")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("fleet.max_frequncy_hz = 1e9", "did you mean fleet.max_frequency_hz"),
        ("fleet.deadline_s = 5", "round.deadline_s"),
        ("round.energy_budget_j = 5", "energy_budget_j"),
        ("fleet.id = 'x'", "device[].id"),
        ("server.0.x = 1", "server"),
    ],
)
def test_unknown_keys_say_where_they_belong(key: str, says: str) -> None:
    text = PLAIN + "[[server]]\n" if key.startswith("server") else PLAIN
    found = faults(text, key.replace(" = ", "="))
    assert len(found) == 1
    assert says in " ".join(str(part) for part in next(iter(found.items())))


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("true", "must be a number or a distribution"),
        ("'1e6'", "must be a number or a distribution"),
        ("[1, 2]", "must be a number or a distribution"),
        ("{uniform = [1]}", "must be a number or a distribution"),
        ("{uniform = [1, 2, 3]}", "must be a number or a distribution"),
        ("{uniform = 'wide'}", "must be a number or a distribution"),
        ("{choice = []}", "must be a number or a distribution"),
        ("{uniform = [1, 2], choice = [1]}", "must be a number or a distribution"),
        ("{}", "must be a number or a distribution"),
        ("nan", "must be a finite number"),
        ("inf", "must be a finite number"),
        ("0", "must be above 0"),
        ("{uniform = [0, 1]}", "must be above 0"),
        ("{uniform = [1, -1]}", "must be above 0"),
        ("{choice = [1, -2]}", "must be above 0"),
        ("{uniform = [2, 1]}", "the first end must not be above the second"),
        ("{loguniform = [2, 1]}", "the first end must not be above the second"),
        ("{lognormal = [-1, 1]}", "must be above 0"),
        ("{lognormal = [1, -1]}", "the standard deviation must be at least 0"),
        ("{lognormal = [1, inf]}", "must hold finite numbers"),
        ("{uniform = [1, inf]}", "must be a finite number"),
    ],
)
def test_bad_numbers_and_distributions(value: str, remedy: str) -> None:
    ((key, (_, said)),) = faults(PLAIN + f"noise_w = {value}\n").items()
    assert key == "fleet.noise_w"
    assert said.startswith(remedy)


def test_positions_may_be_drawn_by_logarithm_only_above_zero() -> None:
    text = PLAIN + "x_m = {loguniform = [-5, 5]}\ny_m = 0\n"
    assert faults(text)["fleet.x_m"][1] == "a logarithm needs values above 0"


@pytest.mark.parametrize("value", ["2.5", "{choice = [1, 2.5]}"])
def test_samples_are_whole(value: str) -> None:
    text = f"[fleet]\ndevices = 1\nsamples = {value}\n"
    assert faults(text)["fleet.samples"][1] == "must be a whole number"


DEVICES = "[fleet]\nsamples = 10\n"
BETWEEN: dict[str, tuple[str, str, object, str]] = {
    "one id twice": (DEVICES + "[[device]]\nid = 'a'\n" * 2, "device.id", "a", "give each its own"),
    "the name of another": (
        DEVICES + "[[device]]\nid = 'device-1'\n[[device]]\n",
        "device.id",
        "device-1",
        "give each its own",
    ),
    "no devices": ("[fleet]\nsamples = 10\n", "fleet.devices", None, "list them as [[device]]"),
    "too few": (DEVICES + "devices = 1\n" + "[[device]]\n" * 2, "fleet.devices", 1, "2 are listed"),
    "no samples": ("[fleet]\ndevices = 2\n", "fleet.samples", None, "every device needs"),
    "one without": ("[[device]]\nsamples = 3\n[[device]]\n", "fleet.samples", None, "every device needs"),
    "more than listed": ("[fleet]\ndevices = 2\n[[device]]\nsamples = 3\n", "fleet.samples", None, "every device needs"),
    "rank too high": ("[adaptation]\ninput_dim = 8\nmax_rank = 9\n" + PLAIN, "adaptation.max_rank", 9, "8 rows or columns"),
    "half a place": (PLAIN + "x_m = 1\n", "fleet.y_m", None, "both x_m and y_m"),
    "the other half": (DEVICES + "[[device]]\ny_m = 1\n", "device[0].x_m", None, "both x_m and y_m"),
    "place and distance": (PLAIN + "x_m = 1\ny_m = 1\ndistance_m = 3\n", "fleet.distance_m", 3.0, "remove one"),
    "place of all, distance of one": (
        DEVICES + "x_m = 1\ny_m = 1\n[[device]]\ndistance_m = 3\n",
        "device[0].distance_m",
        3.0,
        "of [fleet] give the distance already",
    ),
    "distance and gain": (
        DEVICES + "[[device]]\ndistance_m = 3\nuplink_gain = 1e-9\n",
        "device[0].uplink_gain",
        1e-9,
        "distance_m gives the gain already",
    ),
    "place and gain": (
        DEVICES + "[[device]]\nx_m = 3\ny_m = 3\ndownlink_gain = 1e-9\n",
        "device[0].downlink_gain",
        1e-9,
        "x_m and y_m give the gain already",
    ),
    "distances to several": (PLAIN + "distance_m = 3\n[[server]]\n", "server", 1, "give x_m and y_m instead"),
    "several, no places": (PLAIN + "[[server]]\n[[server]]\n", "server", 2, "every device needs x_m and y_m"),
}


@pytest.mark.parametrize(("text", "key", "value", "remedy"), BETWEEN.values(), ids=BETWEEN)
def test_faults_between_keys(text: str, key: str, value: object, remedy: str) -> None:
    found = faults(text)
    assert list(found) == [key]
    assert found[key][0] == value
    assert remedy in found[key][1]


def test_sections_and_lists_are_told_apart() -> None:
    assert "write [round]" in faults(PLAIN.replace("[fleet]", "round = 3\n[fleet]"))["round"][1]
    assert "write [[device]]" in faults(PLAIN + "[device]\nid = 'a'\n")["device"][1]
    assert "write [[server]]" in faults("server = [1]\n" + PLAIN)["server"][1]


def test_a_recipe_is_no_fleet() -> None:
    found = faults("[model]\nname = 'minilm'\n" + PLAIN)
    assert "it is a recipe" in found["fleet"][1]


def test_what_is_not_toml() -> None:
    assert "is not TOML" in faults("[fleet\n")["fleet"][1]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes("name = 'Zürich'".encode("latin-1"))
    for name, says in (
        (tmp_path / "latin.toml", "cannot be read"),
        (tmp_path / "none.toml", "no such file"),
        (tmp_path, "is a folder; name the file in it"),
        ("citty", "did you mean 'city'?"),
        ("x" * 5000, "cannot be read"),
        ("zero\0", "give a file"),
    ):
        with pytest.raises(RecipeError) as caught:
            read_fleet_file(str(name))
        assert says in str(caught.value)
    if os.geteuid() != 0:
        (tmp_path / "mine.toml").write_text(PLAIN)
        (tmp_path / "mine.toml").chmod(0)
        with pytest.raises(RecipeError, match="cannot be read"):
            read_fleet_file(str(tmp_path / "mine.toml"))


def test_overrides_are_read_last() -> None:
    file = parse_fleet(PLAIN, ["fleet.devices=5", "fleet.noise_w={uniform = [1e-14, 1e-13]}", "channel.fading=rayleigh"])
    assert (file.fleet.devices, file.channel.fading) == (5, "rayleigh")
    assert file.fleet.noise_w == Draw("uniform", (1e-14, 1e-13))
    assert faults(PLAIN + "[[device]]\n", "device.id=x")["device.id"][1].startswith("device is a key or a list of tables")


@pytest.mark.parametrize("name", shipped_fleets())
def test_shipped_fleets_are_read_and_drawn(name: str) -> None:
    file = read_fleet_file(name)
    assert len(fleet_of(file)) == (file.fleet.devices or len(file.device))
    again = parse_fleet(tomli_w.dumps(to_plain(file)))
    assert again == file


NUMBERS = st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.6g}"))
PAIRS = st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair)))
DRAWS = st.one_of(
    st.builds(lambda pair: Draw("uniform", pair), PAIRS),
    st.builds(lambda pair: Draw("loguniform", pair), PAIRS),
    st.builds(lambda pair: Draw("lognormal", pair), PAIRS),
    st.builds(lambda values: Draw("choice", tuple(values)), st.lists(NUMBERS, min_size=1, max_size=4)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(DRAWS | NUMBERS, DRAWS | NUMBERS), max_size=4), DRAWS)
def test_recipes_with_devices_and_draws_come_back(rows: list[tuple[Any, Any]], draw: Draw) -> None:
    """A run writes its recipe resolved; what is read from there is the same recipe."""
    document = {
        "federation": {"devices": 5},
        "plan": {"policy": "joint"},
        "fleet": {"noise_w": draw.to_toml()},
        "device": [
            {"id": f"d{n}", "capacitance": to_plain(first), "noise_w": to_plain(second)}
            for n, (first, second) in enumerate(rows)
        ],
    }
    recipe = parse_recipe(tomli_w.dumps(document))
    assert recipe.fleet.noise_w == draw
    assert [(device.capacitance, device.noise_w) for device in recipe.device] == rows
    assert parse_recipe(to_toml(recipe)) == recipe
    assert build_settings(FleetFile, {"device": tomllib.loads(to_toml(recipe)).get("device", [])}, []).device == recipe.device


def test_a_draw_is_shown_as_it_is_written() -> None:
    assert repr(Draw("uniform", (0.2, 1.0))) == "{uniform = [0.2, 1.0]}"
    assert to_plain(DeviceSettings(id="a", samples=Draw("choice", (1.0, 2.0)))) == {
        "samples": {"choice": [1.0, 2.0]},
        "id": "a",
    }
