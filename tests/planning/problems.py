"""Random problems, ordinary and extreme, and the oracle of equations 1 to 12 in exact fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from fedfit.planning.feasible import limits_at
from fedfit.planning.problem import Problem, charges

EDGE = Fraction(1, 10**9)
"""Relative change of the limits within which a sum in floats may fall on either side."""


def ordinary(seed: int, count: int, highest: int = 40) -> Problem:
    """``count`` devices of very different scales, whose limits are near what some rank of each needs at some frequency."""
    draw = np.random.default_rng(seed)

    def log(low: float, high: float) -> np.ndarray:
        return np.asarray(10 ** draw.uniform(low, high, count))

    cycles, spread = log(5, 12), draw.integers(0, 2, count)
    fixed = draw.integers(0, 2, (2, count))
    grows = np.maximum(draw.integers(0, 4, (2, count)) > 0, fixed == 0)  # every packet holds something
    problem = Problem(
        cycles_fixed=np.where(spread, -cycles, cycles * draw.uniform(0, 50, count)),  # eq. 2, or floating-point operations
        cycles_per_rank=2 * cycles,
        uplink_bits_fixed=log(3, 8) * fixed[0],
        uplink_bits_per_rank=log(3, 7) * grows[0],
        downlink_bits_fixed=log(3, 8) * fixed[1],
        downlink_bits_per_rank=log(3, 7) * grows[1],
        uplink_bits_per_s=log(3, 9),
        downlink_bits_per_s=log(3, 9),
        transmit_power_w=log(-4, 1),
        circuit_energy_j=log(-6, 1) * draw.integers(0, 2, count),
        capacitance=log(-30, -24),
        max_frequency_hz=log(7, 10),
        energy_budget_j=np.ones(count),
        deadline_s=np.ones(count),
        max_rank=draw.integers(1, highest + 1, count),
    )
    wanted = draw.uniform(0.5, 1.2 * problem.max_rank)
    cost = charges(problem, wanted, problem.max_frequency_hz * draw.uniform(0.05, 1, count))
    near = 10 ** draw.uniform(-0.3, 0.3, (2, count))
    return replace(problem, deadline_s=cost.latency_s * near[0], energy_budget_j=cost.energy_j * near[1])


def extreme(seed: int, count: int, highest: int = 40) -> Problem:
    """``ordinary`` devices, each bent one way: exactly on an end, dead, endless, or of an absurd scale."""
    problem, draw = ordinary(seed, count, highest), np.random.default_rng(seed + 1)
    kind = draw.integers(0, 14, count)
    rank = draw.integers(1, problem.max_rank + 1)
    cost = charges(problem, rank, problem.max_frequency_hz)
    radio_s, radio_j = cost.uplink_s + cost.downlink_s, cost.uplink_j + cost.circuit_j
    deadline, budget = problem.deadline_s.copy(), problem.energy_budget_j.copy()
    up, down = problem.uplink_bits_per_s.copy(), problem.downlink_bits_per_s.copy()
    fastest, most = problem.max_frequency_hz.copy(), problem.max_rank.copy()
    deadline[kind == 0] = radio_s[kind == 0]  # no time is left
    budget[kind == 1] = radio_j[kind == 1]  # no energy is left
    deadline[kind == 2], budget[kind == 2] = cost.latency_s[kind == 2], np.inf  # this rank, and just so
    budget[kind == 3], deadline[kind == 3] = cost.energy_j[kind == 3], 10 * cost.latency_s[kind == 3]
    up[kind == 4] = 0.0
    down[kind == 5] = 0.0
    deadline[kind == 6] = np.inf
    up[kind == 7], down[kind == 7] = 1e300, 1e300  # huge gains
    budget[kind == 8] = problem.circuit_energy_j[kind == 8] * 0.5 + 1e-300
    most[kind == 9] = 1
    fastest[kind == 10] = 10 ** draw.uniform(-100, 100, count)[kind == 10]
    deadline[kind == 11], budget[kind == 11] = 1e300, 1e300
    deadline[kind == 12], budget[kind == 12] = cost.latency_s[kind == 12], cost.energy_j[kind == 12]  # both just so
    down[kind == 13], deadline[kind == 13] = 0.0, np.inf  # dead, and all the time in the world
    return replace(
        problem,
        deadline_s=deadline,
        energy_budget_j=budget,
        uplink_bits_per_s=up,
        downlink_bits_per_s=down,
        max_frequency_hz=fastest,
        max_rank=most,
    )


SEEDS = st.integers(0, 2**32)
COUNTS = st.integers(1, 40)
ORDINARY = st.builds(ordinary, SEEDS, COUNTS)
EXTREME = st.builds(extreme, SEEDS, COUNTS)
ANY = ORDINARY | EXTREME


def oracle_rank(problem: Problem, row: int, scale: Fraction = Fraction(1)) -> int:
    """The highest rank of one device with its three limits times ``scale``, by equations 1 to 12 without rounding.

    With slack_s = T0 - M_ul·Q/s_ul - M_dl·Q/s_dl and slack_j = E0 - xi - P·M_ul·Q/s_ul, C1 (eq. 15) reads C/f <= slack_s, so
    f >= C/slack_s; C2 (eq. 17) reads Omega·C·f² <= slack_j. Both get easier for C1 and harder for C2 as f grows, so some
    f <= f_max will do exactly when the least that C1 allows, C/slack_s, is at most f_max (C <= f_max·slack_s) and keeps C2:
    Omega·C·(C/slack_s)² <= slack_j, that is Omega·C³ <= slack_j·slack_s². A remainder of nothing leaves nothing for C > 0.
    """
    values = {name: getattr(problem, name)[row].item() for name in problem.__dataclass_fields__}
    if values["uplink_bits_per_s"] == 0 or values["downlink_bits_per_s"] == 0:
        return 0
    rank = 0
    while rank < values["max_rank"] and _possible(values, rank + 1, scale):
        rank += 1
    return rank


def _possible(values: dict[str, float], rank: int, scale: Fraction) -> bool:
    exact = {name: Fraction(value) for name, value in values.items() if np.isfinite(value)}
    cycles = exact["cycles_fixed"] + rank * exact["cycles_per_rank"]
    up, down = (exact[f"{way}_bits_fixed"] + rank * exact[f"{way}_bits_per_rank"] for way in ("uplink", "downlink"))
    uplink_s = up / exact["uplink_bits_per_s"]
    slack_s = slack_j = None  # None: no limit
    if "deadline_s" in exact:
        slack_s = exact["deadline_s"] * scale - uplink_s - down / exact["downlink_bits_per_s"]
    if "energy_budget_j" in exact:
        slack_j = exact["energy_budget_j"] * scale - exact["circuit_energy_j"] - exact["transmit_power_w"] * uplink_s
    if (slack_s is not None and slack_s <= 0) or (slack_j is not None and slack_j <= 0):
        return False
    if slack_s is None:
        return True
    quick = cycles <= exact["max_frequency_hz"] * scale * slack_s
    return quick and (slack_j is None or exact["capacitance"] * cycles**3 <= slack_j * slack_s**2)


def some_frequency_does(problem: Problem, row: int, rank: int, steps: int = 4000) -> bool:
    """Brute force: tries frequencies up to f_max, evenly and by logarithm, and what the limits leave, a part in 1e9 wider."""
    part = problem.take(np.full(1, row))
    limits = limits_at(part, rank)
    fastest = part.max_frequency_hz[0]
    tried = [np.linspace(0, fastest, steps + 1)[1:], np.geomspace(fastest * 1e-9, fastest, steps)]
    tried += [limits.low_hz * (1 + 1e-12), limits.high_hz, limits.high_hz * (1 - 1e-12)]
    frequencies = np.concatenate([values[np.isfinite(values) & (values > 0) & (values <= fastest)] for values in tried])
    cost = charges(part, rank, frequencies)
    late = ~(cost.latency_s <= part.deadline_s * (1 + 1e-9)) | ~np.isfinite(cost.latency_s)
    dear = cost.energy_j > part.energy_budget_j * (1 + 1e-9)
    return bool((~late & ~dear).any())


def with_limits(problem: Problem, deadline_s: float | np.ndarray, energy_j: float | np.ndarray) -> Problem:
    """The same problem under other limits."""
    count = len(problem)
    return replace(
        problem,
        deadline_s=np.broadcast_to(np.asarray(deadline_s, dtype=np.float64), count).copy(),
        energy_budget_j=np.broadcast_to(np.asarray(energy_j, dtype=np.float64), count).copy(),
    )
