"""``fedfit reproduce personal``: when does a model of each device's own pay? The methods over the skew of the devices' classes.

This module runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Comparison
from fedfit.sweeps.metric import OWN, Metric
from fedfit.sweeps.personal_base import personal_base
from fedfit.sweeps.personal_methods import MINILM, SEARCH_SEED, claims, methods, notes

NAME = "personal"
SCALES = ("smoke", "small")
SEARCH_ALPHA = 0.5
SHOWN = ("accuracy_worst", "accuracy_p10", "accuracy_spread")


@dataclass(frozen=True)
class Size:
    """The size of the comparison at one scale. ``rounds`` and ``steps`` are those of a device that trains one adapter."""

    source: str
    alphas: tuple[float, ...]
    rates: tuple[float, ...]
    devices: int
    samples: int
    test_samples: int
    rounds: int
    steps: int
    seeds: int
    batch_size: int = 16


SIZES = {
    "smoke": Size("pydocs", (0.5,), (3e-3,), 3, 200, 60, 2, 2, 1),
    "small": Size("ag_news", (0.2, 0.5, 5.0), (3e-3, 1e-2, 3e-2), 10, 3000, 600, 8, 8, 3),
}


def personal(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    lines = methods(size.rounds, size.steps)
    return Comparison(
        name=NAME,
        title="A model of each device's own: the methods over the skew of the classes",
        scale=scale,
        base=base(size),
        methods=tuple(lines.values()),
        cases=tuple(Case(size.source, alpha) for alpha in size.alphas),
        rates=size.rates,
        search_alpha=SEARCH_ALPHA,
        search_seed=SEARCH_SEED,
        targets={},
        claims=claims(tuple(lines), "accuracy", SHOWN),
        notes=notes("AG News", MINILM, ("partition.kind", "partition.alpha")),
        seeds=tuple(range(size.seeds)),
        metric=Metric("accuracy", OWN),
        beside=SHOWN,
    )


def base(size: Size) -> str:
    """The recipe of the comparison, in TOML; the data and their spread are the case's."""
    return personal_base(size, "minilm", 24, '[partition]\nkind = "dirichlet"')
