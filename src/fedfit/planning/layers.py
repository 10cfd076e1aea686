"""How many layers a device trains, chosen together with its rank; the paper leaves it to future work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedfit.planning.problem import Problem
from fedfit.planning.solvers import exact


@dataclass(frozen=True)
class Depth:
    """``layers`` and ``rank`` of every device, both 0 where it can do none; arrays ``(devices,)``."""

    layers: np.ndarray
    rank: np.ndarray


def choose_layers(problem_of: Callable[[int], Problem], most: int) -> Depth:
    """The depth with the most trained parameters, ``max l·r_i*(l)``; of equals the one with more layers.

    Exact: every depth from 1 to ``most`` is solved. Parameters are proportional to ``l·r`` where all layers are alike.

    Args:
        problem_of: the fleet's problem when every device trains that many layers.
    """
    layers = rank = np.zeros(len(problem_of(1)), dtype=np.int64)
    for depth in range(1, most + 1):
        found = exact(problem_of(depth))
        better = (found > 0) & (depth * found >= layers * rank)
        layers, rank = np.where(better, depth, layers), np.where(better, found, rank)
    return Depth(layers, rank)
