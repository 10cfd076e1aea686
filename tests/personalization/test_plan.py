"""A plan charges the personal part's compute, and no radio for it; ranks, codecs and batteries go on as they are."""

from pathlib import Path

import pytest

from tests.trajectories.world import World, lines, one_thread_only

FREE = ["adapter.dropout=0", "evaluation.device_test_share=0.2"]
FIXED = ["plan.policy=fixed", "plan.deadline_s=1e6", "fleet.battery_j="]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


def costs(world: World, out: Path, *keys: str) -> list[dict[str, dict[str, float]]]:
    with one_thread_only():
        run = world.run(out, *FREE, *FIXED, *keys)
    return [line["cost"] for line in lines(run / "devices.jsonl")]


@pytest.mark.parametrize(
    ("method", "times"),
    [("ditto", 2.0), ("fedrep", 2.0), ("fedalt", 5 / 3), ("fedper", 1.0), ("fine_tune", 1.0), ("pftt", 1.0), ("pfedlora", 2.0)],
)
def test_compute_is_charged_and_radio_is_not(method: str, times: float, world: World, tmp_path: Path) -> None:
    """Seconds and joules of computing, at one frequency: ``times`` those of the same rounds without the method."""
    frequency = "plan.frequency=fastest"
    plain = costs(world, tmp_path / "plain", frequency)
    own = costs(world, tmp_path / "own", frequency, f"personalization.method={method}")
    for mine, other in zip(own, plain, strict=True):
        for kind in ("compute_s", "compute_j"):
            assert mine["sent"][kind] == pytest.approx(times * other["sent"][kind], rel=1e-9), kind
        if method in ("ditto", "fine_tune"):
            assert mine["sent"]["uplink_s"] == other["sent"]["uplink_s"]
        if method in ("fedper", "fedrep", "pftt", "pfedlora"):
            assert mine["sent"]["uplink_s"] < other["sent"]["uplink_s"], "part of it stays at home"


def test_with_a_joint_plan_a_second_training_costs_rank(world: World, tmp_path: Path) -> None:
    """The world's own plan, whose ranks fall as the cycles double; the run goes through, at ranks that change."""
    with one_thread_only():
        plain = world.run(tmp_path / "plain", *FREE)
        own = world.run(tmp_path / "own", *FREE, "personalization.method=ditto")
    ranks = [[line["rank"] for line in lines(run / "rounds.jsonl")[1:]] for run in (plain, own)]
    assert all(mine is not None and mine <= other for mine, other in zip(ranks[1], ranks[0], strict=True))
    assert ranks[1] != ranks[0]
