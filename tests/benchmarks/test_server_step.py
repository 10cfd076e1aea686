"""The server's benchmark measures a round that counts, and compares two ways to one product."""

import json
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.server_round import Load, Packets, initial_adapter, measure_rule, rule_of
from benchmarks.server_step import SHARING, loads, main
from benchmarks.truncation import compare, dense_step, fleets

from benchmarks import truncation
from fedfit.aggregation.contract import entry_of
from fedfit.aggregation.table import RULES
from fedfit.core.update import Factors, ServerState, Update, update_of


def tiny(rule: str, mixed: bool = False, number: int = 2) -> Load:
    return Load(rule, mixed, devices=3, rank=8, layers=1, width=12, round=number, repeats=1)


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_rule_is_measured(name: str, number: int) -> None:
    for mixed in (False, True) if RULES[name].traits().mixed_ranks else (False,):
        found = measure_rule(tiny(name, mixed, number))
        assert found.dispatch_s > 0
        assert found.apply_s > 0
        # The head is in every packet: 12·12 + 12 + 4·12 + 4 float32 numbers.
        assert found.uplink_bytes > 4 * 208
        assert found.extra_bytes is None or found.extra_bytes >= 0


def test_only_local_training_is_left_out() -> None:
    assert set(RULES) - set(SHARING) == {"local_only"}


def test_the_shapes_are_those_of_roberta_base() -> None:
    """Query and value of 12 layers; the head has 768² + 768 + 4·768 + 4 numbers."""
    adapter = initial_adapter(Load("fedavg"))
    assert len(adapter.factors) == 24
    assert {(pair.a.shape, pair.b.shape) for pair in adapter.factors.values()} == {((64, 768), (768, 64))}
    assert sum(tensor.numel() for tensor in adapter.groups["head"].values()) == 768 * 768 + 768 + 4 * 768 + 4
    assert Load("flexlora", mixed=True).ranks[:4] == [8, 16, 32, 8]
    assert sum(Load("flexlora", mixed=True).ranks) == 17 * 8 + 17 * 16 + 16 * 32


def test_updates_are_what_devices_made_of_what_they_were_sent(tmp_path: Path) -> None:
    """FedAvg's devices send what they got plus noise of a hundredth: 3 of 1 layer's 2 pairs, and never the same."""
    load = tiny("fedavg")
    initial = initial_adapter(load)
    packets = Packets(rule_of(load), load, initial, tmp_path)
    packets.write(ServerState(initial), 1)
    updates = list(packets.updates(ServerState(initial), 1))
    assert [update.weight for update in updates] == [100.0, 101.0, 102.0]
    assert [update.origin.device for update in updates if update.origin] == [0, 1, 2]
    noise = torch.stack([update.factors["layer.0.value"].b for update in updates])
    assert 0.008 < float(noise.std()) < 0.012  # 3·96 draws: 0.01 within four deviations of 0.01/√(2·288)
    assert not torch.equal(noise[0], noise[1])


def test_a_server_that_takes_nothing_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(state: ServerState, updates: Iterable[Update]) -> ServerState:
        assert len(list(updates)) == 3
        return state

    fedavg = rule_of(tiny("fedavg"))
    monkeypatch.setitem(RULES, "fedavg", entry_of(replace(fedavg, server=replace(fedavg.server, apply=idle))))
    with pytest.raises(AssertionError, match="did not move"):
        measure_rule(tiny("fedavg"))


@pytest.mark.parametrize("ranks", [(1, 1), (4, 4, 4), (8, 8, 8), (1, 2, 4)])
def test_both_ways_give_one_product(ranks: tuple[int, ...]) -> None:
    found = compare(ranks, rank=4, width=12, turns=3)
    assert found.error < 1e-6
    assert (len(found.ours_s), len(found.dense_s), found.ranks) == (3, 3, ranks)
    assert found.ratio == sorted(dense / ours for ours, dense in zip(found.ours_s, found.dense_s, strict=True))[1]


def test_another_product_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(updates: list[Update], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        b, a = dense_step(updates, rank)
        return b * 1.001, a

    monkeypatch.setattr(truncation, "dense_step", other)
    with pytest.raises(AssertionError, match="differ by"):
        compare((2, 2), rank=4, width=12, turns=1)


def test_the_dense_way_by_hand() -> None:
    """Weights 3 and 1: ¾·2·(1, 0)ᵀ(4, 0) + ¼·1·(0, 1)ᵀ(0, 8) = diag(6, 2); at rank 1 diag(6, 0)."""
    one = update_of({"m": Factors(torch.tensor([[4.0, 0]]), torch.tensor([[1.0], [0]]), 2.0)}, weight=3.0)
    two = update_of({"m": Factors(torch.tensor([[0, 8.0]]), torch.tensor([[0], [1.0]]), 1.0)}, weight=1.0)
    b, a = dense_step([one, two], 1)
    torch.testing.assert_close(b @ a, torch.tensor([[6.0, 0], [0, 0]], dtype=torch.float64))


def test_the_fleets_go_from_few_devices_to_many() -> None:
    assert [sum(ranks) for ranks in fleets(50, 64)] == [40, 80, 160, 400, 800, 920, 3200]


def test_rules_for_mixed_ranks_are_measured_at_both_and_slora_in_both_its_stages() -> None:
    sizes = {"devices": 3, "rank": 8, "layers": 1, "width": 12, "repeats": 2, "threads": 1}
    found = list(loads(Namespace(rules=["rolora", "flora", "slora"], **sizes)))
    assert [(load.rule, load.mixed, load.round) for load in found] == [
        ("rolora", False, 2),
        ("flora", False, 2),
        ("flora", True, 2),
        ("slora", False, 2),
        ("slora", False, 3),
    ]
    assert all((load.devices, load.rank, load.layers, load.width, load.repeats) == (3, 8, 1, 12, 2) for load in found)


def test_the_command_prints_both_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--devices", "3", "--rank", "8", "--layers", "1", "--width", "12", "--repeats", "1", "--turns", "1"]
    assert main([*sizes, "--rules", "rolora", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "rolora" in printed
    assert "3 × 1/2/4" in printed
    assert "times faster" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(one["rule"], one["mixed"]) for one in found["rounds"]] == [("rolora", False)]
    assert [one["sum_of_ranks"] for one in found["cuts"]] == [sum(ranks) for ranks in fleets(3, 8)]
