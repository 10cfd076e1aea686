"""The highest rank of every device. Each solver takes a problem and returns ``(devices,)`` int64, 0 where rank 1 is too much.

- ``exact``: integer bisection over the whole fleet at once.
- ``exhaustive``: every rank, every device; what the exact solver is held to.
- ``as_printed``: Algorithm 1 with its misprints, kept to show their effect.
- ``at_frequency``: the best rank where the frequency is given; the paper's baseline draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedfit.planning.feasible import feasible, feasible_at
from fedfit.planning.problem import Problem

_HIGHEST_PRINTED = 2.0**61  # so that the sum of two ranks is an int64
_CHUNK = 1 << 15
"""Devices at a time: their arrays then stay in the processor's cache."""


def exact(problem: Problem) -> np.ndarray:
    """Bisection; see ``feasible`` for why it is exact."""
    return _by_chunks(problem, lambda part, _: _bisect(part, lambda rank: feasible(part, rank)))


def exhaustive(problem: Problem) -> np.ndarray:
    """The highest feasible rank of all, without using that feasibility is monotone."""
    best = np.zeros(len(problem), dtype=np.int64)
    for rank in range(1, int(problem.max_rank.max(initial=0)) + 1):
        best[feasible(problem, rank) & (rank <= problem.max_rank)] = rank
    return best


def at_frequency(problem: Problem, frequency_hz: np.ndarray) -> np.ndarray:
    """Bisection with each device's frequency given in ``frequency_hz``."""
    return _by_chunks(problem, lambda part, rows: _bisect(part, lambda rank: feasible_at(part, rank, frequency_hz[rows])))


def random_frequencies(max_frequency_hz: np.ndarray, low_share: float, seed: int) -> np.ndarray:
    """The baseline's frequencies: uniform from ``low_share`` of f_max to f_max, ``(devices,)``."""
    generator = np.random.default_rng(seed)
    drawn: np.ndarray = max_frequency_hz * generator.uniform(low_share, 1.0, len(max_frequency_hz))
    return drawn


def as_printed(problem: Problem, printed_bits: Callable[[int], np.ndarray], upper: int | None = None) -> np.ndarray:
    """Algorithm 1 word for word: its upper end is a time (eq. 23, at r = 1), and line 11 returns ``r_rig``.

    The devices share the upper end, and each searches by itself until its own two ends are neighbours. The printed lines do
    not say how mid-points are rounded, and nothing depends on it: feasibility is monotone, so the neighbours are the same.

    Args:
        printed_bits: M·Q of a rank by the printed eq. 5, ``(devices,)``.
        upper: the upper end; by default that of ``printed_upper_end``.
    """
    first, step = printed_bits(1), printed_bits(2) - printed_bits(1)
    high = np.full(len(problem), printed_upper_end(problem, printed_bits) if upper is None else upper, dtype=np.int64)
    low = np.ones(len(problem), dtype=np.int64)
    while (searching := high - low > 1).any():
        middle = (low + high) // 2
        fits = feasible(_with_bits(problem, first + (middle - 1) * step), middle)
        low, high = np.where(searching & fits, middle, low), np.where(searching & ~fits, middle, high)
    return high


def printed_upper_end(problem: Problem, printed_bits: Callable[[int], np.ndarray]) -> int:
    """The greatest ``T0 − C|D|/f_max − MQ/s_ul − MQ/s_dl`` of all devices at r = 1 (eq. 23), rounded up, and at least 2."""
    with np.errstate(all="ignore"):  # a dead link takes forever
        radio_s = printed_bits(1) * (1 / problem.uplink_bits_per_s + 1 / problem.downlink_bits_per_s)
        left_s = problem.deadline_s - problem.cycles(1) / problem.max_frequency_hz - radio_s
    return int(min(np.ceil(np.fmax.reduce(left_s, initial=2.0)), _HIGHEST_PRINTED))


def _with_bits(problem: Problem, bits: np.ndarray) -> Problem:
    none = np.zeros(len(problem))
    return replace(
        problem,
        uplink_bits_fixed=bits,
        uplink_bits_per_rank=none,
        downlink_bits_fixed=bits,
        downlink_bits_per_rank=none,
    )


def _by_chunks(problem: Problem, solve: Callable[[Problem, slice], np.ndarray]) -> np.ndarray:
    slices = [slice(start, start + _CHUNK) for start in range(0, len(problem), _CHUNK)]
    parts = [solve(problem.take(rows), rows) for rows in slices]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _bisect(problem: Problem, fits: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The highest rank that fits: ``low`` always does (0 asks nothing), ``high`` never does."""
    low, high = np.zeros(len(problem), dtype=np.int64), problem.max_rank + 1
    for _ in range(int(high.max(initial=1)).bit_length()):
        middle = (low + high) // 2
        open_ = high - low > 1
        ok = fits(np.maximum(middle, 1))
        low, high = np.where(open_ & ok, middle, low), np.where(open_ & ~ok, middle, high)
    return low
