"""``fedfit reproduce personal``: when does a model of each device's own pay? The methods over the skew of the devices' classes.

The methods that FDLoRA (arXiv 2406.07925) compares itself with, as far as they are here, with the same number of steps for all.
This module runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.metric import OWN, Metric
from fedfit.sweeps.mixed_ranks import FLEET, LOCAL, pairs
from fedfit.sweeps.sweep import Setting

NAME = "personal"
SCALES = ("smoke", "small")

FDLORA, UNFUSED, PRODUCTS, UNSYNCHRONISED = "FDLoRA", "FDLoRA, not fused", "FDLoRA, product-wise", "FDLoRA, H = 0"
FEDAVG, FINE_TUNED = "FedAvg", "FedAvg, fine-tuned"
OTHERS = ("FedSA-LoRA", "Ditto", "FedPer", "FedRep")

SEARCH_ALPHA = 0.5
SEARCH_SEED = 1000
RANK = 8
BATCH_SIZE = 16


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


SIZES = {
    "smoke": Size("pydocs", (0.5,), (3e-3,), 3, 200, 60, 2, 2, 1),
    "small": Size("ag_news", (0.2, 0.5, 5.0), (3e-3, 1e-2), 10, 3000, 600, 8, 8, 3),
}


def personal(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    return Comparison(
        name=NAME,
        title="A model of each device's own: the methods over the skew of the classes",
        scale=scale,
        base=_base(size),
        methods=methods(size),
        cases=tuple(Case(size.source, alpha) for alpha in size.alphas),
        rates=size.rates,
        search_alpha=SEARCH_ALPHA,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=NOTES,
        seeds=tuple(range(size.seeds)),
        metric=Metric("accuracy", OWN),
        beside=("accuracy_worst", "accuracy_p10", "accuracy_spread"),
    )


def methods(size: Size) -> tuple[Method, ...]:
    """The methods in the order of the table. Each trains as many steps on a device: who trains two parts gives each half of
    them, and fine-tuning takes those of the last round.
    """
    half = f"training.local_steps={size.steps // 2}"
    one_less = f"federation.rounds={size.rounds - 1}"
    fdlora = (_method("fdlora"), 'federation.weighting="rule"')
    return (
        Method(FDLORA, (*fdlora, *FLEET)),
        Method(UNFUSED, (*fdlora, 'personalization.fdlora.fusion="none"', *FLEET)),
        Method(PRODUCTS, (*fdlora, 'personalization.fdlora.fusion="products"', *FLEET)),
        Method(UNSYNCHRONISED, (*fdlora, "personalization.fdlora.synchronise_every=0", *FLEET)),
        Method(FEDAVG, ('evaluation.models="both"', *FLEET)),
        Method(FINE_TUNED, (_method("fine_tune"), one_less, *FLEET)),
        Method("FedSA-LoRA", ('federation.rule="fedsa_lora"', *FLEET)),
        Method("Ditto", (_method("ditto"), half, f"personalization.ditto.steps={size.steps // 2}", *FLEET)),
        Method("FedPer", (_method("fedper"), *FLEET)),
        Method("FedRep", (_method("fedrep"), half, f"personalization.fedrep.head_steps={size.steps // 2}", *FLEET)),
        Method(LOCAL, ('federation.rule="local_only"', *FLEET), sends=False),
    )


def _method(name: str) -> str:
    return f'personalization.method="{name}"'


def _base(size: Size) -> str:
    return f"""
[data]
max_tokens = 24
train_samples = {size.samples}
test_samples = {size.test_samples}
[partition]
kind = "dirichlet"
[model]
name = "minilm"
[adapter]
rank = {RANK}
alpha = {RANK}
layers = "last:2"
targets = ["query", "value"]
[federation]
devices = {size.devices}
devices_per_round = {size.devices}
rounds = {size.rounds}
weighting = "samples"
max_failed_rounds = 1000
[training]
local_steps = {size.steps}
schedule = "linear"
batch_size = {BATCH_SIZE}
[evaluation]
every = {size.rounds}
device_test_share = 0.3
"""


CLAIMS = (
    Claim("FDLoRA above local only", "FDLoRA's abstract, of six baselines", pairs(FDLORA, LOCAL)),
    Claim("FDLoRA above FedAvg", "FDLoRA's abstract", pairs(FDLORA, FEDAVG)),
    Claim("FDLoRA above FedAvg, fine-tuned", "the plain baseline", pairs(FDLORA, FINE_TUNED)),
    Claim("FDLoRA above the other methods", "FDLoRA's abstract", pairs(FDLORA, OTHERS)),
    Claim("fusion improves FDLoRA", "FDLoRA's third stage", pairs(FDLORA, UNFUSED)),
    Claim("the paper's fusion above the product-wise one", "which is the exact sum", pairs(FDLORA, PRODUCTS)),
    Claim("synchronisation improves FDLoRA", "FDLoRA's second stage", pairs(FDLORA, UNSYNCHRONISED)),
    Claim(
        "a model of one's own above the shared one", "the reason to personalise", pairs((FDLORA, *OTHERS, FINE_TUNED), FEDAVG)
    ),
    Claim("a model of one's own above training alone", "the reason to federate", pairs((FDLORA, *OTHERS, FINE_TUNED), LOCAL)),
)

NOTES = (
    Setting("method", ("personalization.method",), None, "`none` is FedAvg, FedSA-LoRA and local only"),
    Setting("rule", ("federation.rule",)),
    Setting("data", ("data.source",), "logs and medicine", "AG News"),
    Setting("model", ("model.name",), "LLaMA2-7B", "MiniLM: 6 layers, width 384"),
    Setting("devices, all in every round", ("federation.devices",), "5"),
    Setting("spread over the devices", ("partition.kind", "partition.alpha")),
    Setting("training samples, all devices", ("data.train_samples",), None, "each sets 30 % of its own apart for its test"),
    Setting("few-shot part", ("personalization.few_shot_share",), None, "of FDLoRA, from its training part"),
    Setting("rounds", ("federation.rounds",), None, "one less where devices fine-tune at the end"),
    Setting("steps of a device in a round", ("training.local_steps",), None, "half where it trains two parts"),
    Setting(
        "FDLoRA: H, η, μ",
        (
            "personalization.fdlora.synchronise_every",
            "personalization.fdlora.outer_learning_rate",
            "personalization.fdlora.outer_momentum",
        ),
    ),
    Setting("FDLoRA: fusion", ("personalization.fdlora.fusion", "personalization.fdlora.evaluations")),
    Setting("Ditto: λ", ("personalization.ditto.strength",)),
    Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule", "training.batch_size")),
    Setting("learning rate", ("training.learning_rate",), None, "searched for each method; see table.md"),
    Setting("rank and α", ("adapter.rank", "adapter.alpha")),
    Setting("adapted", ("adapter.layers", "adapter.targets")),
    Setting("length of a text, in tokens", ("data.max_tokens",)),
    Setting("weights", ("federation.weighting",), None, "by samples, but alike with FDLoRA, as its paper has it"),
    Setting("plan", ("plan.policy", "plan.count", "plan.frequency"), None, "charged, and never binding"),
)
"""The settings to report; ``paper`` is FDLoRA's value."""
