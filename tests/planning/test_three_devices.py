"""The shipped fleet ``three-devices`` against arithmetic done by hand.

Six matrices of 768 × 768 (query and value of three layers), 32 bits a parameter, T0 = 60 s, noise 1e-13 W,
powers 0.1 W.

Cycles (eq. 2): (2r − 1)·768·768·2·3 = (2r − 1)·3,538,944 a sample; with 1,000 samples C = (2r − 1)·3.538944e9, with the
sensor's 10 samples C = (2r − 1)·35,389,440.
Bits (eq. 5, mended): r·(768 + 768)·2·3·32 = r·294,912.
Rates (eq. 6, 10): h·P/N0 = 1.023e-9·0.1/1e-13 = 1023 and log2(1 + 1023) = 10, so 1 MHz carries 1e7 bit/s: 0.0294912 s a rank.
The sensor's uplink has 1e-12·0.1/1e-13 = 1, log2(2) = 1, 20 kHz: 2e4 bit/s, so 14.7456 s a rank.

phone (1 GHz, 1e-28, 500 J). C1 at f_max: 3.538944·(2r − 1) ≤ 60 − 2·0.0294912·r.
    r = 8: 53.084160 ≤ 59.5281408, yes. r = 9: 60.162048 ≤ 59.4691584, no. Its budget would allow
    sqrt(499.87/(1e-28·60.162048e9)) = 9.1 GHz, so it is f_max that stops rank 9.
watch (3 GHz, 1e-27, 20 J). C2 at the least frequency: 1e-27·C³ ≤ (20 − 0.1 − 0.00294912·r)·(60 − 0.0589824·r)².
    r = 6: C = 38.928384e9, 58,992 ≤ 19.88230528·59.6461056² = 70,734, yes.
    r = 7: C = 46.006272e9, 97,376 ≤ 19.87935616·59.5871232² = 70,584, no. The budget allows
    sqrt(19.879/(1e-27·46.006e9)) = 0.657 GHz, below f_max = 3 GHz: energy stops rank 7.
sensor (1 GHz, 1e-28, 500 J). r = 4: 4·14.7456 + 4·0.0294912 = 59.1003648 s of radio leave 0.8996352 s for 7·35,389,440 =
    247,726,080 cycles: 0.275 GHz, yes. r = 5: 73.728 s of uplink alone pass 60 s: deadline.
"""

from math import sqrt
from typing import Any

import pytest

from tests.cli.command import fedfit

CYCLES_4 = 7 * 3.538944e9  # at the common rank 4
DOWN_4_S = 4 * 0.0294912
UNIT = {"phone": 1e-28, "watch": 1e-27, "sensor": 1e-28}


@pytest.fixture(scope="module")
def plan() -> Any:
    answer = fedfit("plan", "three-devices", "--json")
    assert answer.status == 0
    return answer.json


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9)


def test_ranks_and_what_stops_the_next(plan: Any) -> None:
    assert (plan["rank"], plan["deadline_s"]) == (4, 60.0)
    assert [(device["id"], device["max_rank"], device["rank"], device["binding"]) for device in plan["devices"]] == [
        ("phone", 8, 4, "frequency"),
        ("watch", 6, 4, "energy"),
        ("sensor", 4, 4, "deadline"),
    ]
    assert plan["infeasible"] == []
    assert plan["warnings"] == []
    assert [device["breaks"] for device in plan["devices"]] == [[], [], []]


def test_frequencies(plan: Any) -> None:
    """f_lo = C/(60 − radio): 24.772608e9/59.7640704 = 414,506,706.7 Hz, and 247,726,080/0.8996352 = 275,362,813.7 Hz.

    Upper ends: f_max of phone and sensor; of the watch sqrt((20 − 0.1 − 0.1·0.1179648)/(1e-27·24.772608e9)) = 896,008,052 Hz.
    """
    assert [device["frequency_hz"] for device in plan["devices"]] == [
        close(CYCLES_4 / 59.7640704),
        close(CYCLES_4 / 59.7640704),
        close(247_726_080 / 0.8996352),
    ]
    low = [device["frequency_range_hz"][0] for device in plan["devices"]]
    assert low == [close(414506706.69178520), close(414506706.69178520), close(275362813.7271641)]
    high = [device["frequency_range_hz"][1] for device in plan["devices"]]
    assert high == [close(1e9), close(sqrt(19.88820352 / (1e-27 * CYCLES_4))), close(1e9)]


def test_latencies(plan: Any) -> None:
    """All finish on the deadline, since the least energy is spent at the lowest frequency that keeps it."""
    for device, up, compute in zip(
        plan["devices"], (DOWN_4_S, DOWN_4_S, 4 * 14.7456), (59.7640704, 59.7640704, 0.8996352), strict=True
    ):
        assert device["latency_s"] == {
            "compute": close(compute),
            "uplink": close(up),
            "downlink": close(DOWN_4_S),
            "total": close(60.0),
        }


def test_energies(plan: Any) -> None:
    """Computing Ω·C·f² (eq. 3), sending 0.1 W·T_ul (eq. 8), circuit 0.1 J.

    Phone: 1e-28·24.772608e9·414,506,706.7² = 0.425633 J.
    """
    sent = {"phone": 0.01179648, "watch": 0.01179648, "sensor": 5.89824}
    cycles = {"phone": CYCLES_4, "watch": CYCLES_4, "sensor": 247_726_080.0}
    left_s = {"phone": 59.7640704, "watch": 59.7640704, "sensor": 0.8996352}
    for device in plan["devices"]:
        name = device["id"]
        compute = UNIT[name] * cycles[name] ** 3 / left_s[name] ** 2
        assert device["energy_j"] == {
            "compute": close(compute),
            "uplink": close(sent[name]),
            "circuit": 0.1,
            "total": close(compute + sent[name] + 0.1),
        }
    assert [device["energy_budget_j"] for device in plan["devices"]] == [500.0, 20.0, 500.0]
    assert plan["devices"][0]["energy_j"]["compute"] == pytest.approx(0.425633, rel=1e-5)


def test_each_its_own() -> None:
    plan = fedfit("plan", "three-devices", "--policy", "per_device", "--json").json
    assert plan["rank"] is None
    assert [device["rank"] for device in plan["devices"]] == [8, 6, 4]
    # Phone at rank 8: 53.08416e9 cycles in 59.5281408 s.
    assert plan["devices"][0]["frequency_hz"] == close(53.08416e9 / 59.5281408)


def test_fastest() -> None:
    plan = fedfit("plan", "three-devices", "--frequency", "fastest", "--json").json
    phone, watch, sensor = plan["devices"]
    assert [phone["frequency_hz"], sensor["frequency_hz"]] == [close(1e9), close(1e9)]
    assert phone["latency_s"]["compute"] == close(24.772608)
    assert watch["energy_j"]["total"] == close(20.0)  # all that it may spend


def test_limits_for_rank_9() -> None:
    """Phone: 60.162048 s at 1 GHz and 9·0.0589824 s of radio. Watch, within its 20 J: f = sqrt(19.87345792/(1e-27·60.162048e9))
    = 574,740,984 Hz, so 104.677 s + 0.5308416 s. Sensor, 17·35,389,440 cycles at 1 GHz: 0.60162048 + 132.7104 + 0.2654208 s.
    """
    answer = fedfit("plan", "three-devices", "--for-rank", "9", "--json").json["for_rank"]
    watch = 60.162048e9 / sqrt((19.9 - 9 * 0.00294912) / (1e-27 * 60.162048e9)) + 9 * 0.0589824
    seconds = [60.162048 + 0.5308416, watch, 0.60162048 + 132.7104 + 0.2654208]
    assert [device["deadline_s"] for device in answer["devices"]] == [close(value) for value in seconds]
    assert (answer["rank"], answer["deadline_s"]) == (9, close(max(seconds)))
    # No budget buys time: phone and sensor cannot keep 60 s. The watch's 3 GHz can: 1e-27·C³/59.4691584² + 0.02654208 + 0.1.
    budgets = [device["energy_j"] for device in answer["devices"]]
    assert budgets == [None, close(1e-27 * 60.162048e9**3 / 59.4691584**2 + 0.02654208 + 0.1), None]
    assert answer["energy_j"] is None
