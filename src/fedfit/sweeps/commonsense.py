"""``fedfit reproduce commonsense``: the rules for devices of unequal ranks on questions with exact answers.

Follows the second table of FSLoRA (arXiv 2501.19389), of LLaMA-3.2-3B on commonsense questions, and runs FSLoRA as its
authors' code does besides: clients with SGD, and a step of AdamW on the server along the mean change. This module runs nothing.
"""

from __future__ import annotations

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.language_base import SEARCH_SEED, Size, base, notes
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.mixed_ranks import (
    CENTRAL,
    FEDERATED,
    FLEET,
    FLEXLORA,
    FSLORA,
    FULL,
    HETLORA,
    LOCAL,
    LOWEST,
    MIXED,
    STACKING,
    pairs,
)
from fedfit.sweeps.sweep import Setting

NAME = "commonsense"
FSLORA_SERVER = "FSLoRA, server AdamW"

RANK = 32
RANKS = (4, 8, 16, 32)
"""Each device draws one of them, by the seed alone."""
DEVICES = 10
TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")
SGD_RATES = {"smoke": (0.03,), "small": (0.01, 0.1), "paper": (0.003, 0.03)}
"""Rates of clients that take steps of SGD; FSLoRA's code leaves the value open."""
SERVER_RATES = {"smoke": 3e-4, "small": 3e-3, "paper": 3e-4}
"""Rate of the server's step. 3e-4 is that of FSLoRA's code, for hundreds of rounds; a handful of rounds needs longer steps."""

SIZES = {
    "smoke": Size("smollm2", "last:1", 128, 150, 6, 2, 1, 1, 2, (1e-3,), 1),
    "small": Size("smollm2", "last:3", 192, 480, 150, 5, 6, 3, 8, (1e-3, 3e-3), 3),
    "paper": Size(
        "meta-llama/Llama-3.2-3B", "all", 512, None, None, 5, 750, 20, 4, (1e-4, 3e-4), 3, 5, "alpaca", 'precision = "bf16"'
    ),
}


def commonsense(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    return Comparison(
        name=NAME,
        title="Devices of unequal ranks on questions with exact answers",
        scale=scale,
        base=base(size, DEVICES, RANK, RANK, TARGETS, 'kind = "instruction"\n'),
        methods=methods(scale),
        cases=(Case("commonsense"),),
        rates=size.rates,
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=NOTES,
        source_overrides={"commonsense": ('partition.column="client"',)},
        seeds=tuple(range(size.seeds)),
        metric=Metric("answer_accuracy"),
        beside=("loss",),
    )


def methods(scale: str) -> tuple[Method, ...]:
    """The methods in the order of the table. All train at the same scale s = 1: α always equals the global rank."""
    size = SIZES[scale]
    ranks = f"federation.ranks={{choice={list(RANKS)}}}"
    lowest = (f"adapter.rank={RANKS[0]}", f"adapter.alpha={RANKS[0]}")
    first, *others = (Method(name, (f'federation.rule="{rule}"', ranks, *FLEET)) for name, rule in MIXED.items())
    return (
        first,
        Method(FSLORA_SERVER, (*first.overrides, *_server(scale)), rates=SGD_RATES[scale]),
        *others,
        Method(LOWEST, ('federation.rule="fedavg"', *lowest, *FLEET)),
        Method(FULL, ('federation.rule="fedavg"', *FLEET)),
        Method(LOCAL, ('federation.rule="local_only"', ranks, *FLEET), sends=False),
        Method(CENTRAL, _central(size), sends=False),
    )


def _server(scale: str) -> tuple[str, ...]:
    """The way of FSLoRA's code. fedfit's Adam corrects no bias and decays no weights; with β2 = 0.99 its first steps have the
    length of those of torch's AdamW, whose decay is 3e-6 of a weight a round here.
    """
    return (
        'training.optimizer="sgd"',
        "training.momentum=0.9",
        'federation.server_optimizer="adam"',
        f"federation.server_learning_rate={SERVER_RATES[scale]}",
        "federation.server_beta2=0.99",
        "federation.server_tau=1e-8",
    )


def _central(size: Size) -> tuple[str, ...]:
    """Overrides for one device with all data, at full rank. Its round has as many steps as those of all devices together."""
    return (
        'federation.rule="fedavg"',
        "federation.devices=1",
        "federation.devices_per_round=1",
        'partition.kind="iid"',
        f"training.local_steps={size.devices_per_round * size.local_steps}",
    )


_TABLE = "FSLoRA's table, LLaMA-3.2-3B, mean over commonsense sets: FSLoRA 77.9, {} %"
_OTHERS = (HETLORA, FLEXLORA, STACKING)

CLAIMS = (
    Claim("FSLoRA above HetLoRA", _TABLE.format("HetLoRA 73.8"), pairs(FSLORA, HETLORA)),
    Claim("FSLoRA above FlexLoRA", _TABLE.format("FlexLoRA 74.5"), pairs(FSLORA, FLEXLORA)),
    Claim("FSLoRA above stacking", _TABLE.format("stacking 72.3"), pairs(FSLORA, STACKING)),
    Claim(
        "FSLoRA, server AdamW, above these three", "FSLoRA's code, which its table may rest on", pairs(FSLORA_SERVER, _OTHERS)
    ),
    Claim("the server's AdamW improves FSLoRA", "does it change the order?", pairs(FSLORA_SERVER, FSLORA)),
    Claim("mixed ranks above FedAvg at the lowest rank", "the reason for mixed ranks at all", pairs(tuple(MIXED), LOWEST)),
    Claim("FedAvg at full rank above mixed ranks", "every device as strong as the best: a ceiling", pairs(FULL, tuple(MIXED))),
    Claim("federated above local only", "the reason to federate at all", pairs((*FEDERATED, FSLORA_SERVER), LOCAL)),
    Claim("centralised above all", "all data in one place: a ceiling", pairs(CENTRAL, (*FEDERATED, FSLORA_SERVER, LOCAL))),
)

NOTES = notes(
    {
        "model": "LLaMA-3.2-3B",
        "rounds": "750",
        "steps of a device in a round": "20",
        "samples a step": "4",
        "adapted": "q, v, up and down of all layers",
    },
    Setting("ranks of the devices", ("federation.ranks",), None, "drawn by the seed alone; unset is `adapter.rank` for all"),
    Setting(
        "server's step",
        ("federation.server_optimizer", "federation.server_learning_rate", "federation.server_beta2", "federation.server_tau"),
        "AdamW at 3e-4 on the mean change, in the code",
        "of `FSLoRA, server AdamW` alone, whose devices take steps of SGD with momentum 0.9; `none` is the mean itself",
    ),
    Setting("rule", ("federation.rule",)),
    Setting("plan", ("plan.policy", "plan.count", "plan.frequency"), None, "charged, and never binding; centralised has none"),
)
"""The settings to report; ``paper`` is FSLoRA's value, of paper or code."""
