"""A shared band against a grid of shares, and depth against every depth and rank."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fedfit.experiment.fleet_file import fleet_of, parse_fleet
from fedfit.planning.bandwidth import least_bands_hz, over_bands, servable, share_band
from fedfit.planning.feasible import feasible
from fedfit.planning.layers import choose_layers
from fedfit.planning.problem import Problem, make_problem, paper_work
from fedfit.planning.solvers import exact, exhaustive
from fedfit.wireless.channel import Links, mean_links
from fedfit.wireless.fleet import Fleet

TOTAL_HZ = 2e6


def drawn(count: int, seed: int, least_j: float = 0.3) -> tuple[Problem, Fleet, Links]:
    """Devices of a small adapter whose radio matters as much as their CPU."""
    fleet = fleet_of(
        parse_fleet(f"""
            [fleet]
            devices = {count}
            seed = {seed}
            samples = {{uniform = [20, 400]}}
            max_frequency_hz = {{uniform = [0.5e9, 2e9]}}
            capacitance = {{loguniform = [1e-28, 1e-26]}}
            energy_budget_j = {{uniform = [{least_j}, 3.0]}}
            uplink_gain = {{loguniform = [1e-14, 1e-11]}}
            downlink_gain = {{loguniform = [1e-14, 1e-11]}}
            uplink_bandwidth_hz = {{uniform = [1e5, 2e6]}}
            """)
    )
    return radio(fleet, layers=3)


def radio(fleet: Fleet, layers: float, max_rank: int = 24) -> tuple[Problem, Fleet, Links]:
    links = mean_links(fleet)
    matrices = 2 * layers
    work = paper_work(fleet, 256 * 256 * matrices, 512 * matrices, 32.0, 0.0)
    return make_problem(fleet, links, work, 12.0, max_rank), fleet, links


def common_rank(problem: Problem, fleet: Fleet, links: Links, band_hz: np.ndarray) -> int:
    return int(exhaustive(over_bands(problem, fleet, links, band_hz)).min())


@pytest.mark.parametrize("count", [2, 3])
def test_no_share_on_a_grid_is_better(count: int) -> None:
    """Every share in steps of a 200th (two devices) or a 40th of the band (three): never a higher rank, and where the least
    bands leave room the grid finds the same one.
    """
    steps, found = {2: 200, 3: 40}[count], set()
    for seed in range(25):
        problem, fleet, links = drawn(count, seed)
        share = share_band(problem, fleet, links, TOTAL_HZ)
        parts = [np.array(p) for p in product(range(1, steps), repeat=count) if sum(p) == steps]
        bands = TOTAL_HZ * np.array(parts) / steps
        ranks = np.full(len(bands), 10**9)
        for row in range(count):  # one device under all its shares at once
            rows = np.full(len(bands), row)
            part = over_bands(problem.take(rows), fleet.take(rows), links.take(rows), bands[:, row])
            ranks = np.minimum(ranks, exhaustive(part))
        assert ranks.max() <= share.rank
        assert share.certain
        needed = least_bands_hz(problem, fleet, links, max(share.rank, 1), TOTAL_HZ)[1]
        if share.rank and (TOTAL_HZ - needed.sum()) > count * TOTAL_HZ / steps:  # then some share of the grid covers them
            assert ranks.max() == share.rank
        found.add(share.rank)
    assert len(found) > 5


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_what_a_share_promises(count: int) -> None:
    """The bands sum to the total, the rank is that of the problem over them, and an equal split is no better."""
    better = 0
    for seed in range(20):
        problem, fleet, links = drawn(count, seed)
        total_hz = TOTAL_HZ * count / 2
        share = share_band(problem, fleet, links, total_hz)
        assert share.certain
        assert share.band_hz.sum() == pytest.approx(total_hz, rel=1e-12)
        assert (share.band_hz > 0).all()
        assert common_rank(problem, fleet, links, share.band_hz) == share.rank
        equal = common_rank(problem, fleet, links, np.full(count, total_hz / count))
        assert share.rank >= equal
        better += share.rank > equal
    assert (better > 3) == (count > 1)


def test_the_least_band_does_and_less_does_not() -> None:
    problem, fleet, links = drawn(60, 1, least_j=0.05)
    low, high = least_bands_hz(problem, fleet, links, 2, TOTAL_HZ)
    some = np.isfinite(high)
    assert 10 < some.sum() < 60
    part, devices, radios = problem.take(some), fleet.take(np.flatnonzero(some)), links.take(some)
    assert feasible(over_bands(part, devices, radios, high[some]), 2).all()
    assert not feasible(over_bands(part, devices, radios, low[some] * (1 - 1e-9)), 2).any()
    assert (high[some] / low[some] < 1 + 1e-12).all()
    assert not feasible(over_bands(problem, fleet, links, np.full(60, TOTAL_HZ)), 2)[~some].any()


def test_the_highest_rank_is_kept_to() -> None:
    """With a band without end nothing but ``max_rank`` stops an ample device; the lowest of all holds for all."""
    problem, fleet, links = drawn(3, 0)
    ample = replace(problem, deadline_s=np.full(3, 1e6), energy_budget_j=np.full(3, 1e9), max_rank=np.array([24, 7, 12]))
    share = share_band(ample, fleet, links, 1e9)
    assert (share.rank, share.certain) == (7, True)


def test_no_share_where_one_device_can_do_nothing() -> None:
    problem, fleet, links = drawn(3, 0)
    late = replace(problem, deadline_s=np.array([1e-9, 12.0, 12.0]))
    share = share_band(late, fleet, links, TOTAL_HZ)
    assert (share.rank, share.certain) == (0, True)
    assert share.band_hz.tolist() == [TOTAL_HZ / 3] * 3
    nobody = share_band(problem.take(slice(0, 0)), fleet.take([]), links.take(np.arange(0)), TOTAL_HZ)
    assert nobody.rank == 0


def test_as_many_as_the_band_serves() -> None:
    """Against every subset of six devices: none that can do rank 1 together is larger."""
    sizes = set()
    for seed in range(15):
        problem, fleet, links = drawn(6, seed, least_j=0.05)
        for total_hz in (3e3, 5e3, 1e4, 2e4, 1e5):
            kept = servable(problem, fleet, links, total_hz)
            needed = least_bands_hz(problem, fleet, links, 1, total_hz)[1]
            most = max(sum(p) for p in product((0, 1), repeat=6) if needed[np.array(p) > 0].sum() <= total_hz)
            assert kept.sum() == most
            assert needed[kept].sum() <= total_hz
            sizes.add(most)
    assert len(sizes) > 3


def test_tiny_bands() -> None:
    """Below the least band that is looked at first, nothing is promised that is not kept."""
    problem, fleet, links = drawn(2, 3)
    for total_hz in (1e-12, 1e-4, 1e-3, 1.0):
        share = share_band(problem, fleet, links, total_hz)
        assert share.rank == 0
        assert share.band_hz.sum() == pytest.approx(total_hz)


def test_layers_and_rank_have_the_most_parameters() -> None:
    """Against all layers times all ranks; of equal products the one with more layers."""
    _, fleet, _ = drawn(80, 5, least_j=0.05)

    def problem_of(layers: int) -> Problem:
        return radio(fleet, layers)[0]

    found = choose_layers(problem_of, 12)
    pairs = set()
    for row in range(len(fleet)):
        can = [
            (layers * rank, layers, rank)
            for layers in range(1, 13)
            for rank in range(1, 25)
            if feasible(problem_of(layers).take(np.full(1, row)), rank)[0]
        ]
        best = max(can, default=(0, 0, 0))
        assert (found.layers[row], found.rank[row]) == best[1:]
        pairs.add(best[1:])
    assert (0, 0) in pairs
    assert len(pairs) > 10
    assert (exact(problem_of(12)) <= found.rank).all()
