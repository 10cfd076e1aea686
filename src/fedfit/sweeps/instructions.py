"""``fedfit reproduce instructions``: does federated instruction tuning beat local training? OpenFedLLM's seven algorithms.

Follows OpenFedLLM (arXiv 2402.06954), on a device for each kind of instruction. This module runs nothing.
"""

from __future__ import annotations

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.language_base import SEARCH_SEED, Size, base, notes
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.mixed_ranks import LOCAL, pairs
from fedfit.sweeps.sweep import Setting

NAME = "instructions"
FEDAVG, SCAFFOLD = "FedAvg", "SCAFFOLD"
ADAPTIVE = {"FedAdagrad": "adagrad", "FedYogi": "yogi", "FedAdam": "adam"}
"""Name of a line → ``federation.server_optimizer``."""

RANK, ALPHA = 32, 64
DEVICES = 5
TARGETS = ("q_proj", "v_proj")
PROXIMAL = 0.01
SGD_RATES = {"smoke": (0.1,), "small": (0.5, 2.0), "paper": (0.1, 0.5)}
"""Rates of SCAFFOLD, whose control variates need SGD here; OpenFedLLM corrects the gradient before AdamW."""
MOMENTUM = {"smoke": 0.5, "small": 0.5, "paper": 0.9}
"""β of FedAvgM, whose rate is 1 − β, for OpenFedLLM averages the changes. 0.9 is its own, for 200 rounds."""
SERVER_RATES = {"smoke": 1e-3, "small": 1e-2, "paper": 1e-3}
"""η of the adaptive ones. 1e-3 is OpenFedLLM's, for 200 rounds; a handful of rounds needs longer steps."""

SIZES = {
    "smoke": Size("smollm2", "last:1", 128, 60, 4, 2, 1, 1, 2, (1e-3,), 1),
    "small": Size("smollm2", "last:3", 128, 300, 40, 5, 6, 3, 8, (5e-3, 2e-2), 3),
    "paper": Size(
        *("meta-llama/Llama-2-7b-hf", "all", 512, None, None, 2, 200, 10, 16, (5e-5,), 3, 4, "alpaca"),
        extra='schedule = "cosine"\nweight_decay = 0\nprecision = "bf16"',
    ),
}
ANSWERS = {"smoke": (1, 6), "small": (6, 24), "paper": (200, 256)}
"""Generated answers, and the longest in tokens."""


def instructions(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size, (answers, longest) = SIZES[scale], ANSWERS[scale]
    task = f'kind = "instruction"\ngenerate_samples = {answers}\nmax_new_tokens = {longest}\n'
    return Comparison(
        name=NAME,
        title="Instructions of five kinds, a device each: federated against local",
        scale=scale,
        base=base(size, DEVICES, RANK, ALPHA, TARGETS, task),
        methods=methods(scale),
        cases=(Case("domains"),),
        rates=size.rates,
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=NOTES,
        source_overrides={"domains": ('partition.column="domain"',)},
        seeds=tuple(range(size.seeds)),
        metric=Metric("loss"),
        beside=("perplexity", "rouge_l"),
    )


def methods(scale: str) -> tuple[Method, ...]:
    """The methods in the order of the table."""
    momentum, rate = MOMENTUM[scale], SERVER_RATES[scale]
    averaged = f"federation.server_learning_rate={1 - momentum:g}"
    return (
        Method(FEDAVG, ()),
        Method("FedProx", (f"training.proximal={PROXIMAL}",)),
        Method(SCAFFOLD, _scaffold(), rates=SGD_RATES[scale]),
        Method("FedAvgM", (*_server("momentum", momentum), averaged)),
        *(
            # As published, FedAdagrad has no momentum.
            Method(name, (*_server(kind, 0.0 if kind == "adagrad" else 0.9), f"federation.server_learning_rate={rate}"))
            for name, kind in ADAPTIVE.items()
        ),
        Method(LOCAL, ('federation.rule="local_only"',), sends=False),
    )


def _scaffold() -> tuple[str, ...]:
    return (
        'federation.rule="scaffold"',
        'federation.weighting="uniform"',
        'training.optimizer="sgd"',
        "training.weight_decay=0",
    )


def _server(kind: str, momentum: float) -> tuple[str, ...]:
    return (f'federation.server_optimizer="{kind}"', f"federation.server_momentum={momentum}")


SEVEN = (FEDAVG, "FedProx", SCAFFOLD, "FedAvgM", *ADAPTIVE)

CLAIMS = (
    Claim("federated above local only", "OpenFedLLM: all seven algorithms beat training alone", pairs(SEVEN, LOCAL)),
    Claim("FedAvg above local only", "OpenFedLLM", pairs(FEDAVG, LOCAL)),
    Claim("the other six above FedAvg", "the reason for them; OpenFedLLM finds no one best", pairs(SEVEN[1:], FEDAVG)),
)

NOTES = notes(
    {
        "model": "Llama-2-7B, in 8 bits",
        "devices": "20",
        "devices drawn in a round": "2",
        "rounds": "200",
        "steps of a device in a round": "10",
        "samples a step": "16",
        "learning rate": "5e-5, falling with a cosine",
        "rank and α": "32 and 64",
        "length of a sample, in tokens": "512",
        "template": "alpaca",
    },
    Setting("rule", ("federation.rule",), None, "local only: the mean of the devices' models, each on the whole test part"),
    Setting("μ of FedProx", ("training.proximal",), "0.01", "0 is without"),
    Setting("server's step", ("federation.server_optimizer",), None, "`none` is the mean itself"),
    Setting("its rate", ("federation.server_learning_rate",), "1e-3", "0.5 or 0.1 is FedAvgM's, 1 is without effect"),
    Setting("its momentum", ("federation.server_momentum",), "0.9", "0 is FedAdagrad's"),
    Setting("generated answers", ("task.generate_samples", "task.max_new_tokens"), None, "for ROUGE-L"),
)
"""The settings to report; ``paper`` is OpenFedLLM's value, of its published scripts."""
