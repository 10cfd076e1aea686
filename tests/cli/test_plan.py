"""``fedfit plan``: policies, devices that cannot take part, statuses, streams and files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import fedfit, refused

# One device that can do rank 1; one whose deadline is over while it sends, 14.7456 s a rank at 20 kbit/s (see
# tests/planning/test_three_devices.py) and so 147.456 s at 2; and one whose budget is below the circuit's 0.1 J.
SLOW = """
[round]
deadline_s = 60
[fleet]
samples = 1000
max_frequency_hz = 1e9
capacitance = 1e-28
transmit_power_w = 0.1
downlink_power_w = 0.1
uplink_gain = 1.023e-9
downlink_gain = 1.023e-9
noise_w = 1e-13
[[device]]
id = "able"
[[device]]
id = "slow"
uplink_bandwidth_hz = 2e3
uplink_gain = 1e-12
[[device]]
id = "poor"
energy_budget_j = 0.05
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.toml"
    path.write_text(SLOW)
    return path


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_an_infeasible_device_ends_with_status_2_and_a_whole_document(slow: Path) -> None:
    answer = fedfit("plan", slow, "--json")
    assert answer.status == 2
    assert (answer.json["rank"], answer.json["devices"]) == (None, [])
    assert ids(answer.json["infeasible"]) == ["slow", "poor"]
    assert answer.stderr.startswith("error: 2 devices cannot take part, each for its own reason; the first, slow: ")
    assert "--drop-infeasible" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_reason_names_limits_that_do(slow: Path) -> None:
    """Of the slow device a deadline alone (147.456 + 0.0294912 + 3.538944 = 151.0244352 s at 1 GHz); of the poor one a budget:
    0.1 J of circuit, 0.1·0.0294912 J to send and 1e-28·3.538944e9·(3.538944e9/59.9410176)² J to compute.
    """
    slow_reason, poor_reason = (row["reason"] for row in fedfit("plan", slow, "--json").json["infeasible"])
    (seconds,) = re.findall(r"a deadline of ([\d.]+) s with 500 J", slow_reason)
    assert 151.0244352 <= float(seconds) < 151.03
    assert "budget of" not in slow_reason
    (joules,) = re.findall(r"a budget of ([\d.]+) J within 60 s", poor_reason)
    compute = 1e-28 * 3.538944e9 * (3.538944e9 / 59.9410176) ** 2
    assert 0.1 + 0.00294912 + compute <= float(joules) < 0.10419
    mended = fedfit("plan", slow, f"round.deadline_s={seconds}", "--json").json
    assert ids(mended["infeasible"]) == ["poor"]


def test_dropping_plans_for_the_rest(slow: Path) -> None:
    answer = fedfit("plan", slow, "--drop-infeasible", "--json")
    assert answer.status == 0
    # "able" is the phone of three-devices.
    assert (answer.json["rank"], ids(answer.json["devices"])) == (8, ["able"])
    assert ids(answer.json["infeasible"]) == ["slow", "poor"]


def test_dropping_none_changes_nothing() -> None:
    kept = fedfit("plan", "three-devices", "--drop-infeasible", "--json")
    assert kept.json == fedfit("plan", "three-devices", "--json").json


def test_dropping_is_not_offered_where_it_would_leave_nobody(slow: Path) -> None:
    """Within a microsecond none of the three can; of the deadlines that are named the greater plans all, the less the easiest.
    No budget is named: none makes a CPU fast enough.
    """
    slow.write_text(SLOW.replace("energy_budget_j = 0.05", "energy_budget_j = 1"))
    answer = fedfit("plan", slow, "round.deadline_s=1e-6", "--json")
    assert answer.status == 2
    assert "drop-infeasible" not in answer.stderr
    words = answer.json["remedy"]
    assert answer.stderr == f"error: none of the 3 devices can do rank 1; {words}\n"
    every, one = re.findall(r"a deadline of ([\d.]+) s would do for (all|one) of them", words)
    assert (every[1], one[1]) == ("all", "one")
    assert "budget" not in words
    planned = fedfit("plan", slow, f"round.deadline_s={every[0]}", "--json").json
    assert (planned["rank"], planned["infeasible"], planned["remedy"]) == (1, [], None)
    left = fedfit("plan", slow, f"round.deadline_s={one[0]}", "--drop-infeasible", "--json").json
    assert ids(left["devices"]) == ["able", "poor"]  # the two are alike but for the budget
    fewer = fedfit("plan", slow, f"round.deadline_s={0.999 * float(one[0])}", "--drop-infeasible")
    assert f"no device can take part; a deadline of {every[0]} s would do for all of them" in fewer.stderr


def test_the_only_device_has_its_own_reason(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(SLOW.split("[[device]]", maxsplit=1)[0] + "devices = 1\n")
    answer = fedfit("plan", path, "round.deadline_s=1e-6")
    assert "error: device-0: cannot do rank 1 within 1e-06 s" in answer.stderr
    assert "drop-infeasible" not in answer.stderr


def test_a_fleet_that_can_in_part_is_not_said_to_be_unable(slow: Path) -> None:
    answer = fedfit("plan", slow)
    assert answer.stdout.splitlines()[0] == "no plan: not every device can take part"
    assert fedfit("plan", slow, "--json").json["remedy"] is None


@pytest.mark.parametrize(
    ("option", "word"),
    [("--policy", "per_device"), ("--solver", "as_printed"), ("--solver", "random_frequency"), ("--frequency", "least_energy")],
)
def test_words_are_those_of_a_recipe_and_hyphens_do_as_well(option: str, word: str) -> None:
    found = fedfit("plan", "three-devices", option, word, "--json").json
    assert found[option.removeprefix("--")] == word
    assert fedfit("plan", "three-devices", option, word.replace("_", "-"), "--json").json == found


def test_dropping_all_leaves_an_empty_plan(slow: Path) -> None:
    """A microsecond is too short for all three."""
    answer = fedfit("plan", slow, "round.deadline_s=1e-6", "--drop-infeasible", "--json")
    assert answer.status == 0
    assert (answer.json["rank"], answer.json["devices"], len(answer.json["infeasible"])) == (None, [], 3)
    words = fedfit("plan", slow, "round.deadline_s=1e-6", "--drop-infeasible")
    assert words.status == 0
    assert "no device can take part" in words.stdout


def test_one_device(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(SLOW.split("[[device]]", maxsplit=1)[0] + "devices = 1\n")
    for policy in ("common", "per_device"):
        (device,) = fedfit("plan", path, "--policy", policy, "--json").json["devices"]
        assert (device["id"], device["rank"], device["binding"]) == ("device-0", 8, "frequency")
    share = fedfit("plan", path, "--share-band-hz", "1e6", "--json").json
    assert share["devices"][0]["band_hz"] == pytest.approx(1e6)
    assert (share["rank"], share["certain"]) == (8, True)


def test_order_of_the_devices_does_not_matter(tmp_path: Path) -> None:
    head, *devices = SLOW.split("[[device]]")
    plans = {}
    for order in ([0, 1, 2], [2, 0, 1]):
        path = tmp_path / "mixed.toml"
        path.write_text("[[device]]".join([head, *(devices[n] for n in order)]))
        plan = fedfit("plan", path, "--policy", "per_device", "--drop-infeasible", "--json").json
        plans[str(order)] = {row["id"]: row for row in [*plan["devices"], *plan["infeasible"]]}
    first, second = plans.values()
    assert first == second


@pytest.mark.parametrize("solver", ["exact", "exhaustive"])
def test_common_and_own_ranks_of_the_city(solver: str) -> None:
    """The common rank is the least of the own ranks; both solvers, through the command, give the same document."""
    common = fedfit("plan", "city", "--drop-infeasible", "--round", "1", "--solver", solver, "--json").json
    own = fedfit("plan", "city", "--drop-infeasible", "--round", "1", "--policy", "per_device", "--json").json
    ranks = [device["rank"] for device in own["devices"]]
    assert common["rank"] == min(ranks)
    assert [device["max_rank"] for device in common["devices"]] == ranks
    assert {device["rank"] for device in common["devices"]} == {common["rank"]}
    assert own["rank"] is None
    assert len(own["devices"]) + len(own["infeasible"]) == 1000
    assert len(set(ranks)) > 20


def test_drawn_frequencies_are_never_better() -> None:
    own = {
        solver: fedfit("plan", "city", "--drop-infeasible", "--policy", "per_device", "--solver", solver, "--json").json
        for solver in ("exact", "random_frequency")
    }
    best = {device["id"]: device["rank"] for device in own["exact"]["devices"]}
    drawn = {device["id"]: device["rank"] for device in own["random_frequency"]["devices"]}
    assert all(best[name] >= rank for name, rank in drawn.items())
    assert sum(drawn.values()) < sum(best.values())
    assert all("at the frequency drawn" in row["reason"] for row in own["random_frequency"]["infeasible"])


def test_sharing_the_band_raises_the_common_rank() -> None:
    """100 kHz for all three: the bands are those of the answer, and the device with the weak link gets most of them."""
    found = fedfit("plan", "three-devices", "--share-band-hz", "1e5", "--json").json
    assert found["certain"] is True
    assert sum(device["band_hz"] for device in found["devices"]) == pytest.approx(1e5)
    assert found["band_hz"] == 1e5
    bands = [device["band_hz"] for device in found["devices"]]
    assert bands[2] > bands[0]
    assert min(device["max_rank"] for device in found["devices"]) == found["rank"]
    # An equal third for the sensor: n0 = 5e-18 W/Hz, so 1.667e-13 W in 33.3 kHz, log2(1.6) = 0.678 and 22,602 bit/s: rank r
    # takes 13.05·r s up; down, log2(1 + 1023·30) = 14.905, 0.594·r s. Rank 4 is its last, 5 takes 68 s; sharing does better.
    assert found["rank"] > 4


def test_dropped_devices_get_none_of_the_band(slow: Path) -> None:
    found = fedfit("plan", slow, "--share-band-hz", "1e6", "--drop-infeasible", "--json").json
    # No band helps the slow one: its noise is 1e-13 W in 2 kHz, 5e-17 W/Hz, so the rate stays below h·P/(n0·ln 2) =
    # 2,885 bit/s, and 294,912 bits take 102 s.
    assert ids(found["infeasible"]) == ["slow", "poor"]
    assert [device["band_hz"] for device in found["devices"]] == [pytest.approx(1e6)]
    assert (found["rank"], found["certain"]) == (8, True)


def test_layers_are_chosen_within_those_of_the_file() -> None:
    found = fedfit("plan", "three-devices", "--choose-layers", "--policy", "per_device", "--json").json
    assert found["total_layers"] == 3
    whole = [device["max_rank"] for device in fedfit("plan", "three-devices", "--json").json["devices"]]
    for device, rank in zip(found["devices"], whole, strict=True):
        assert 1 <= device["layers"] <= 3
        assert device["layers"] * device["rank"] >= 3 * rank


def test_rounds_draw_their_own_fading() -> None:
    ranks = []
    for number in ("0", "1", "1", "2"):
        plan = fedfit("plan", "city", "--policy", "per_device", "--drop-infeasible", "--round", number, "--json").json
        ranks.append([(device["id"], device["rank"]) for device in plan["devices"]])
    assert ranks[1] == ranks[2]
    assert ranks[0] != ranks[1] != ranks[3]


def test_files_hold_what_json_prints(tmp_path: Path) -> None:
    answer = fedfit("plan", "three-devices", "--out", tmp_path / "out", "--json")
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == answer.json
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plan.json", "plan.png", "plan.svg"}
    (tmp_path / "file").write_text("")
    refused("plan", "three-devices", "--out", tmp_path / "file" / "below", says=["cannot be written"])


def test_words_for_people() -> None:
    answer = fedfit("plan", "three-devices", "--for-rank", "9")
    assert answer.status == 0
    assert "rank 4 for all 3 devices; sensor stops rank 5: deadline" in answer.stdout
    assert "rank 9 for all: least deadline 133.578 s; least energy budget none, the deadline does not allow it" in (
        answer.stdout.replace("\n", " ")
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--solver", "exct"], ["--solver", "exct", "did you mean 'exact'?"]),
        (["--policy", "own"], ["--policy", "common, per_device"]),
        (["--frequency", "slow"], ["--frequency", "least_energy"]),
        (["--for-rank", "0"], ["--for-rank", "at least 1"]),
        (["--round", "-1"], ["--round", "at least 0"]),
        (["--share-band-hz", "0"], ["--share-band-hz", "above 0"]),
        (["--share-band-hz", "nan"], ["--share-band-hz", "above 0"]),
        (["--share-band-hz", "1e6", "--policy", "per_device"], ["--share-band-hz", "--policy common"]),
        (["--choose-layers"], ["--policy", "add --policy per_device"]),
        (["--choose-layers", "--policy", "per_device", "--solver", "exhaustive"], ["--solver", "leave --solver out"]),
        (["--solver", "x", "--policy", "y", "--for-rank", "0"], ["3 faults", "--solver", "--policy", "--for-rank"]),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], says: list[str]) -> None:
    refused("plan", "three-devices", *arguments, says=says)


def test_fleets_that_are_none(tmp_path: Path) -> None:
    refused("plan", "three-device", says=["did you mean 'three-devices'?"])
    refused("plan", "x" * 400, says=["cannot be read"])
    (tmp_path / "recipe.toml").write_text("[data]\nsource = 'ag_news'\n")
    refused("plan", tmp_path / "recipe.toml", says=["is a recipe", "fedfit run"])


def test_what_is_out_of_proportion_is_warned_of() -> None:
    answer = fedfit("plan", "three-devices", "fleet.downlink_bandwidth_hz=1", "--json")
    assert answer.status == 2
    assert "warning: downlink_bandwidth_hz = 1" in answer.stderr
    (line,) = answer.json["warnings"]
    assert "10 bit/s of downlink" in line
    assert np.isfinite(answer.json["deadline_s"])


def test_a_fault_is_a_document_too(tmp_path: Path) -> None:
    """A program that asked for JSON can tell a typo from a fleet that cannot be planned: ``error``, or a plan."""
    file = tmp_path / "fleet.toml"
    file.write_text("[fleet]\ndevices = 2\nsamples = 5\nnoise_W = 1\n")
    answer = fedfit("plan", str(file), "--json")
    assert answer.status == 2
    document = json.loads(answer.stdout)
    assert [fault["key"] for fault in document["faults"]] == ["fleet.noise_W"]
    assert document["error"].startswith("the fleet has 1 fault:")
    assert "noise_w" in answer.stderr


def test_a_broken_limit_is_told_in_words(tmp_path: Path) -> None:
    answer = fedfit("plan", "three-devices", "round.deadline_s=3", "--solver", "as_printed")
    assert "this plan breaks the limits of " in answer.stdout.replace("\n", " ")
