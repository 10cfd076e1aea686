"""``fedfit reproduce fdlora-ablations``: which of FDLoRA's choices matter? Each changed alone.

The data and the model are those of ``fedfit reproduce personal``. The learning rate is one for all: the changes are of the
outer step, of the copies and of the fusion, not of a device's steps. This module runs nothing.
"""

from __future__ import annotations

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.metric import OWN, Metric
from fedfit.sweeps.mixed_ranks import FLEET, pairs
from fedfit.sweeps.personal import SIZES, base
from fedfit.sweeps.personal_methods import ALIKE, MINILM, SEARCH_SEED, method, notes

NAME = "fdlora-ablations"
SCALES = ("smoke", "small")
DEFAULT = "default"
RATE = 1e-2
ALPHAS = {"smoke": (0.5,), "small": (0.2, 0.5)}

_KEY = "personalization.fdlora"
CHANGES: dict[str, tuple[str, ...]] = {
    "no fusion": (f'{_KEY}.fusion="none"',),
    "products": (f'{_KEY}.fusion="products"',),
    "L1 as a mean": (f'{_KEY}.penalty_of="mean"',),
    "no L1 term": (f"{_KEY}.penalty=0.0",),
    "5 evaluations": (f"{_KEY}.evaluations=5",),
    "COBYQA": (f'{_KEY}.optimizer="cobyqa"',),
    "few-shot 2 %": ("personalization.few_shot_share=0.02",),
    "few-shot 20 %": ("personalization.few_shot_share=0.2",),
    "H = 0": (f"{_KEY}.synchronise_every=0",),
    "H = 1": (f"{_KEY}.synchronise_every=1",),
    "H = 2": (f"{_KEY}.synchronise_every=2",),
    "η = 0.5": (f"{_KEY}.outer_learning_rate=0.5",),
    "η = 0.001": (f"{_KEY}.outer_learning_rate=0.001",),
    "μ = 0": (f"{_KEY}.outer_momentum=0.0",),
    "μ = 0.9": (f"{_KEY}.outer_momentum=0.9",),
}
"""Line → what it changes of the default. ``fdlora_ablations`` adds two of K, the steps of a device in a round."""


def fdlora_ablations(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    halved = (f"training.local_steps={size.steps // 2}", f"federation.rounds={2 * size.rounds}")
    doubled = (f"training.local_steps={2 * size.steps}", f"federation.rounds={max(2, size.rounds // 2)}")
    # K changes at equal steps in all, so its lines depend on the size
    changes = {DEFAULT: (), **CHANGES, "K halved, rounds doubled": halved, "K doubled, rounds halved": doubled}
    fixed = (method("fdlora"), ALIKE)
    return Comparison(
        name=NAME,
        title="FDLoRA, each choice changed alone",
        scale=scale,
        base=base(size),
        methods=tuple(Method(name, (*fixed, *change, *FLEET)) for name, change in changes.items()),
        cases=tuple(Case(size.source, alpha) for alpha in ALPHAS[scale]),
        rates=(RATE,),
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=notes("AG News", MINILM, ("partition.kind", "partition.alpha")),
        seeds=tuple(range(size.seeds)),
        metric=Metric("accuracy", OWN),
        beside=("accuracy_worst", "accuracy_p10", "accuracy_spread"),
    )


CLAIMS = (
    Claim("fusion improves FDLoRA", "the third stage", pairs(DEFAULT, "no fusion")),
    Claim("the paper's fusion above the product-wise one", "which is the exact sum", pairs(DEFAULT, "products")),
    Claim("copies to the personal adapter improve it", "the second stage", pairs(DEFAULT, "H = 0")),
    Claim("a larger few-shot part improves it", "5 % are ten samples here", pairs("few-shot 20 %", DEFAULT)),
    Claim("momentum improves it", "the outer step", pairs(DEFAULT, "μ = 0")),
    Claim("η = 1 above 0.001", "public code has both", pairs(DEFAULT, "η = 0.001")),
    Claim("40 evaluations above 5", "public code has both", pairs(DEFAULT, "5 evaluations")),
    Claim("fewer, longer rounds cost nothing", "K", pairs("K doubled, rounds halved", DEFAULT)),
)
