"""``fedfit reproduce preferences``: DPO and KTO, federated against local, on TruthfulQA by category and persona by trait.

Follows FedVA of OpenFedLLM (arXiv 2402.06954), DPO on each device and the mean of the factors, and KTO in its place (arXiv
2502.14187). This module runs nothing.
"""

from __future__ import annotations

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.language_base import SEARCH_SEED, Size, base, notes
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.mixed_ranks import pairs
from fedfit.sweeps.sweep import Setting

NAME = "preferences"
DPO, KTO = "DPO, federated", "KTO, federated"
LOCAL_DPO, LOCAL_KTO = "DPO, local only", "KTO, local only"
LOSSES = {"dpo": (DPO, LOCAL_DPO), "kto": (KTO, LOCAL_KTO)}
"""``task.loss`` → the names of its two lines."""

COLUMNS = {"truthfulqa": "category", "persona": "client"}
RANK, ALPHA = 8, 16
DEVICES = 6
TARGETS = ("q_proj", "v_proj")
BETA = 0.1

SIZES = {
    "smoke": Size("smollm2", "last:1", 96, 60, 6, 2, 1, 1, 2, (1e-3,), 1),
    "small": Size("smollm2", "last:3", 96, 480, 120, 6, 6, 3, 8, (5e-3, 2e-2), 3),
    "paper": Size(
        *("ehartford/Wizard-Vicuna-7B-Uncensored", "all", 512, None, None, 2, 200, 10, 16, (5e-4,), 3, 4),
        template="USER: {prompt} ASSISTANT: {response}",
        extra='weight_decay = 0\nprecision = "bf16"',
    ),
}


def preferences(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    return Comparison(
        name=NAME,
        title="Preferences by DPO and KTO: federated against local",
        scale=scale,
        base=base(size, DEVICES, RANK, ALPHA, TARGETS, f'kind = "preference"\nbeta = {BETA}\n'),
        methods=methods(),
        cases=tuple(Case(source) for source in COLUMNS),
        rates=size.rates,
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=NOTES,
        source_overrides={source: (f'partition.column="{column}"',) for source, column in COLUMNS.items()},
        seeds=tuple(range(size.seeds)),
        metric=Metric("preference_accuracy"),
        beside=("preference_margin", "kl"),
    )


def methods() -> tuple[Method, ...]:
    """The methods in the order of the table."""
    chosen = {loss: f'task.loss="{loss}"' for loss in LOSSES}
    alone = 'federation.rule="local_only"'
    return (
        *(Method(names[0], (chosen[loss],)) for loss, names in LOSSES.items()),
        *(Method(names[1], (chosen[loss], alone), sends=False) for loss, names in LOSSES.items()),
    )


CLAIMS = (
    Claim("federated above local only", "OpenFedLLM, of DPO", (*pairs(DPO, LOCAL_DPO), *pairs(KTO, LOCAL_KTO))),
    Claim("federated KTO above federated DPO", "arXiv 2502.14187", pairs(KTO, DPO)),
)

NOTES = notes(
    {
        "model": "Wizard-Vicuna-7B-Uncensored, in 8 bits",
        "data": "HH-RLHF or UltraFeedback",
        "devices": "5",
        "devices drawn in a round": "2",
        "rounds": "200",
        "steps of a device in a round": "10",
        "samples a step": "16",
        "learning rate": "5e-4",
        "rank and α": "8 and 16",
        "length of a sample, in tokens": "512",
        "template": "vicuna",
    },
    Setting("loss", ("task.loss",)),
    Setting("β", ("task.beta",), "0.1"),
    Setting("reference", ("task.reference",), None, "the frozen base"),
    Setting("rule", ("federation.rule",), None, "local only: the mean of the devices' models, each on the whole test part"),
)
"""The settings to report; ``paper`` is OpenFedLLM's value, of its published scripts."""
