"""``python -m benchmarks.planner``: seconds to plan for a million drawn devices, beside slower ways to the same ranks.

All contenders take the same devices in one process, and their ranks must agree; the two quick ones take turns, so that noise
hits both alike. ``exact`` alone finds ranks;
the whole plan adds frequencies, charges and what binds; ``exhaustive`` tries every rank of every device. Device by device,
``scipy.optimize.brentq`` finds the continuous rank at which the constraint is met with equality, which is then rounded down and
checked: on a sample, its time multiplied up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq  # type: ignore[import-untyped]

from fedfit.experiment.fleet_file import fleet_of, parse_fleet
from fedfit.planning.planner import solve_exactly
from fedfit.planning.problem import Problem, make_problem, paper_work
from fedfit.planning.solvers import exact, exhaustive
from fedfit.wireless.channel import draw_links

FLEET = """
[fleet]
devices = {devices}
samples = {{loguniform = [100, 4000]}}
max_frequency_hz = {{choice = [0.8e9, 1.5e9, 2.4e9]}}
capacitance = {{loguniform = [2e-29, 1e-26]}}
energy_budget_j = {{lognormal = [100.0, 0.8]}}
distance_m = {{uniform = [10, 800]}}
noise_w = 1e-13
[channel]
fading = "rayleigh"
"""
WIDTH, MATRICES, DEADLINE_S, BITS = 768, 6, 300.0, 32.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Times every contender on the same devices and prints seconds and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner", description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--max-rank", type=int, default=WIDTH)
    parser.add_argument("--sample", type=int, default=2000, help="devices that are solved one by one")
    parser.add_argument("--repeats", type=int, default=7, help="turns of the two quick contenders; the slow ones run once")
    parser.add_argument("--json", type=Path, help="write the seconds to this file")
    options = parser.parse_args(arguments)
    problem = draw_problem(options.devices, options.max_rank)
    seconds, ranges, ranks = measure(problem, options.sample, options.repeats)
    console = Console()
    console.print(_table(seconds, ranges, options.sample))
    console.print(_devices(ranks, problem))
    console.print(_machine())
    if options.json:
        found = {"devices": options.devices, "max_rank": options.max_rank, "sample": options.sample}
        options.json.write_text(json.dumps(found | {"seconds": seconds, "ranges": ranges}, indent=1) + "\n", encoding="utf-8")
    return 0


def draw_problem(devices: int, max_rank: int) -> Problem:
    """Query and value of three layers of RoBERTa-base's width; a deadline of five minutes; a round of Rayleigh fading."""
    file = parse_fleet(FLEET.format(devices=devices))
    fleet = fleet_of(file)
    work = paper_work(fleet, WIDTH * WIDTH * MATRICES, 2 * WIDTH * MATRICES, BITS, 0.0)
    return make_problem(fleet, draw_links(fleet, file.channel, 0, 1), work, DEADLINE_S, max_rank)


def measure(problem: Problem, sample: int, repeats: int) -> tuple[dict[str, float], dict[str, tuple[float, float]], np.ndarray]:
    """Seconds by contender, medians; their least and most; and the ranks that all found.

    Raises:
        AssertionError: when two contenders disagree.
    """
    rows = np.linspace(0, len(problem) - 1, min(sample, len(problem))).astype(int)
    part = problem.take(rows)
    ranks = exact(problem)  # and whatever is loaded at the first call
    turns = []
    for _ in range(repeats):
        quick, _again = _timed(lambda: exact(problem))
        whole, own = _timed(lambda: solve_exactly(problem, common=False).own_rank)
        turns.append((quick, whole))
    slow, tried = _timed(lambda: exhaustive(problem))
    one_by_one, found = _timed(lambda: by_brentq(part))
    assert np.array_equal(ranks, own)
    assert np.array_equal(ranks, tried)
    assert np.array_equal(ranks[rows], found)
    measured = {
        "exact, ranks alone": [quick for quick, _ in turns],
        "exact, the whole plan": [whole for _, whole in turns],
        "exhaustive": [slow],
        "brentq, device by device": [one_by_one * len(problem) / len(rows)],
    }
    seconds = {name: statistics.median(values) for name, values in measured.items()}
    return seconds, {name: (min(values), max(values)) for name, values in measured.items()}, ranks


def by_brentq(problem: Problem) -> np.ndarray:
    """The highest rank of each device by a root of its constraint, one device at a time."""
    names = tuple(problem.__dataclass_fields__)
    columns = [getattr(problem, name).tolist() for name in names]
    return np.array([_one(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)], dtype=np.int64)


def _one(device: dict[str, float]) -> int:
    """The margin is positive where some frequency does, and falls as the rank grows: a root, rounded down, and checked."""
    top = int(device["max_rank"])
    if _margin(1.0, device) < 0:
        return 0
    if _margin(float(top), device) >= 0:
        return top
    rank = int(np.floor(brentq(_margin, 1.0, float(top), args=(device,), xtol=1e-9)))
    while rank < top and _margin(rank + 1.0, device) >= 0:
        rank += 1
    while rank > 0 and _margin(float(rank), device) < 0:
        rank -= 1
    return rank


def _margin(rank: float, device: dict[str, float]) -> float:
    """The least of what is left of C1 at f_max and of C2 at the least frequency, each in a form that is smooth in the rank."""
    cycles = device["cycles_fixed"] + rank * device["cycles_per_rank"]
    uplink_s = (device["uplink_bits_fixed"] + rank * device["uplink_bits_per_rank"]) / device["uplink_bits_per_s"]
    downlink_s = (device["downlink_bits_fixed"] + rank * device["downlink_bits_per_rank"]) / device["downlink_bits_per_s"]
    left_s = device["deadline_s"] - uplink_s - downlink_s
    left_j = device["energy_budget_j"] - device["circuit_energy_j"] - device["transmit_power_w"] * uplink_s
    in_time = left_s - cycles / device["max_frequency_hz"]
    if left_s <= 0 or left_j <= 0:
        return float(min(left_s, left_j, in_time, -1e-300))
    return float(min(in_time, left_j - device["capacitance"] * cycles * (cycles / left_s) ** 2))


def _timed(action: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    found = action()
    return time.perf_counter() - started, found


def _table(seconds: dict[str, float], ranges: dict[str, tuple[float, float]], sample: int) -> Table:
    table = Table(title=f"device by device: {sample:,} devices, multiplied up")
    for column in ("contender", "seconds, median", "range", "times exact (ranks alone)"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    base = seconds["exact, ranks alone"]
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", "–".join(f"{end:.3f}" for end in ranges[name]), f"{value / base:.1f}")
    return table


def _devices(ranks: np.ndarray, problem: Problem) -> str:
    at_top = int((ranks == problem.max_rank).sum())
    return (
        f"{len(ranks):,} devices, ranks 0 to {int(ranks.max())} (median {np.median(ranks):g}); {int((ranks == 0).sum()):,} can "
        f"do none, {at_top:,} the highest considered; all contenders found the same ranks"
    )


def _machine() -> str:
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, one thread; numpy {np.__version__}, scipy {scipy.__version__}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    raise SystemExit(main())
