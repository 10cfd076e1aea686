"""Plans under codecs, by the arithmetic of ``test_three_devices``; several side by side; and what is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfit as package
from fedfit.codecs.table import make_codec
from fedfit.core.update import Factors, update_of
from tests.cli.command import fedfit, refused

PARAMETERS = 768 * 2 * 6  # of rank 1


def plan(*words: str, **options: Any) -> dict[str, Any]:
    return package.plan("three-devices", *words, **options)


def ranks(found: dict[str, Any]) -> dict[str, int]:
    return {device["id"]: device["max_rank"] for device in found["devices"]}


def test_bits_of_each_direction_by_hand() -> None:
    """``quantize:4`` takes 4 bits and 32/64 of a scale. The sensor then sends 9,216 · 4.5 = 41,472 bits a rank at 20 kbit/s:
    2.0736 s; it receives 16 bits a parameter at 10 Mbit/s: 0.0147456 s. Beside them are framings below 2 kB: at most 0.8 s
    and 1.6 ms.

    r = 27: 27 · 2.0883456 + 0.8 = 57.1853 s leave 2.81 s for 53 · 35,389,440 = 1.876e9 cycles at 1 GHz: yes.
    r = 28: 28 · 2.0883456 = 58.4737 s leave 1.53 s for 55 · 35,389,440 = 1.946e9: no.
    The phone's 8 stays, for its CPU stops 9; so does the watch's 6.
    """
    found = plan(transport="delta,quantize:4/bf16")
    assert ranks(found) == {"phone": 8, "watch": 6, "sensor": 27}
    assert (found["transport"]["uplink_bits_per_parameter"], found["transport"]["downlink_bits_per_parameter"]) == (4.5, 16)
    for way in ("uplink", "downlink"):
        assert 8 * 100 < found["transport"][f"{way}_bits_fixed"] < 8 * 2000
    (sensor,) = (device for device in found["devices"] if device["id"] == "sensor")
    # all at the common rank 6
    framing_s = found["transport"]["uplink_bits_fixed"] / 2e4
    assert sensor["latency_s"]["uplink"] == pytest.approx(6 * 2.0736 + framing_s, rel=1e-9)


def test_plain_is_the_32_bits_of_the_file_with_its_framing() -> None:
    found = plan(transport="plain")
    assert found["transport"]["uplink_bits_per_parameter"] == found["transport"]["downlink_bits_per_parameter"] == 32
    assert ranks(found) == ranks(plan())
    assert "transport" not in plan()


def test_a_head_travels_with_them() -> None:
    """Coded as the factors are: 10,000 numbers at 8.5 bits, and at 32."""
    bare, headed = (plan(f"adaptation.head_parameters={n}", transport="delta,quantize:8") for n in (0, 10_000))
    more = {
        way: headed["transport"][f"{way}_bits_fixed"] - bare["transport"][f"{way}_bits_fixed"] for way in ("uplink", "downlink")
    }
    assert more["uplink"] == pytest.approx(85_000, abs=800)
    assert more["downlink"] == pytest.approx(320_000, abs=1600)


def test_several_are_compared(tmp_path: Path) -> None:
    """Fewer bits never buy a lower rank, at no deadline; the figure is drawn."""
    chosen = ["plain", "bf16/bf16", "delta,quantize:4/quantize:8"]
    options = [word for name in chosen for word in ("--transport", name)]
    answer = fedfit("plan", "three-devices", *options, "--json", "--out", tmp_path / "out")
    assert answer.status == 0
    rows = answer.json["transports"]
    assert [row["transport"] for row in rows] == chosen
    assert [row["rank"] for row in rows] == [4, 6, 6]
    assert [row["most"] for row in rows] == [8, 8, 27]
    curves = list(answer.json["curves"]["rank"].values())
    for curve, better in pairwise(curves):
        assert all(a <= b for a, b in zip(curve, better, strict=True))
    assert curves[0] != curves[1] != curves[2]
    middle = len(curves[0]) // 2
    assert answer.json["curves"]["deadline_s"][middle] == pytest.approx(60)
    assert [curve[middle] for curve in curves] == [4, 6, 6]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"transport.json", "transport.png", "transport.svg"}
    table = fedfit("plan", "three-devices", *options, "--policy", "per-device").stdout
    assert "ranks within 60 s" in table
    assert "bf16/bf16" in table


def test_who_cannot_take_part_is_told() -> None:
    """Within 3 s only the watch can do rank 1 with 32 bits; with fewer the sensor can too. The phone's CPU needs 3.54 s."""
    chosen = ["plain", "delta,quantize:4/quantize:8", "plain"]
    options = [*(word for name in chosen for word in ("--transport", name)), "round.deadline_s=3"]
    answer = fedfit("plan", "three-devices", *options, "--json")
    assert answer.status == 2, "no codec lets all take part"
    plain, coded = answer.json["transports"]
    assert [device["id"] for device in plain["infeasible"]] == ["phone", "sensor"]
    assert [device["id"] for device in coded["infeasible"]] == ["phone"]
    assert (plain["devices"], coded["devices"]) == (1, 2)
    assert (plain["rank"], coded["rank"]) == (None, None)
    assert "plain: 2 devices cannot take part" in answer.stderr
    dropped = fedfit("plan", "three-devices", *options, "--json", "--drop-infeasible")
    assert dropped.status == 0
    assert [row["devices"] for row in dropped.json["transports"]] == [1, 2]


def test_no_packet_is_longer_than_planned_at_any_rank() -> None:
    """Random factors of 24 layers, from rank 1 to 40: with the header's widest numbers."""
    words = ["adaptation.layers=24", "adaptation.max_rank=40"]
    for chain in ("plain", "bf16", "delta,quantize:4,zstd", "delta,fedobd:0.3"):
        names = chain.split(",")
        planned = plan(*words, transport=f"{chain}/plain")["transport"]
        for rank in (1, 8, 40):
            generator = torch.Generator().manual_seed(rank)
            pairs = {
                f"layer.{n}.{m}.adapted": Factors(
                    torch.rand(rank, 768, generator=generator), torch.rand(768, rank, generator=generator), 1
                )
                for n in range(24)
                for m in range(2)
            }
            sent = update_of(pairs, {}, 1.0, {"steps": 20, "train_loss": 0.123456789})
            size = make_codec(names).encode(sent, sent, seed=1)[0].size_bytes
            parameters = rank * 768 * 2 * 48
            assert 8 * size <= planned["uplink_bits_fixed"] + parameters * planned["uplink_bits_per_parameter"], (chain, rank)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--transport", "delat,bf16"], ["--transport", "delat is no stage", "did you mean 'delta'"]),
        (["--transport", "plain/delta"], ["--transport", "delta is for what devices send"]),
        (["--transport", "plain/bf16/nf4"], ["--transport", "one slash parts UPLINK and DOWNLINK"]),
        (["--transport", ""], ["--transport", "no codec is named"]),
        (["--transport", "topk:0.1"], ["--transport", "did you mean 'top_k'"]),
        (["--transport", "/bf16"], ["--transport", "no codec is named"]),
        (["--transport", "bf16", "adaptation.bits_per_parameter=256"], ["adaptation.bits_per_parameter", "leave it at 32"]),
        (["--transport", "bf16", "--solver", "as_printed"], ["--transport", "knows one Q"]),
        (["--transport", "bf16", "--transport", "plain", "--for-rank", "4"], ["--for-rank", "give one --transport"]),
    ],
)
def test_what_is_refused(words: list[str], says: list[str]) -> None:
    refused("plan", "three-devices", *words, says=says)
