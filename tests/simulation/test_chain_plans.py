"""A plan counts with a chain's bits: the same deadline then has room for a higher rank."""

from pathlib import Path

import pytest

from tests.trajectories.world import World, lines, one_thread_only


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


def test_fewer_bits_buy_rank(world: World, tmp_path: Path) -> None:
    """The world's joint plan, counted by what is sent, at a deadline that plain packets fill."""
    keys = ["adapter.dropout=0", "adapter.rank=8", "plan.count=sent", "fleet.battery_j="]
    chains = ['transport.uplink=["delta","quantize:2"]', 'transport.downlink=["quantize:2"]']
    with one_thread_only():
        plain = world.run(tmp_path / "plain", *keys)
        coded = world.run(tmp_path / "coded", *keys, *chains)
    ranks = [[line["rank"] for line in lines(run / "rounds.jsonl")[1:]] for run in (plain, coded)]
    assert all(mine >= other for mine, other in zip(ranks[1], ranks[0], strict=True))
    assert ranks[1] != ranks[0]
