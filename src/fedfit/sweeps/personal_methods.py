"""The methods that the studies of devices' own models compare, their claims, and the settings to report.

FDLoRA (arXiv 2406.07925), those that its paper compares it with, and later ones; with the same number of steps on a device for
all.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedfit.sweeps.comparison import Claim, Method
from fedfit.sweeps.mixed_ranks import FLEET, LOCAL, pairs
from fedfit.sweeps.sweep import Setting

FDLORA, UNFUSED, PRODUCTS, UNSYNCHRONISED = "FDLoRA", "FDLoRA, not fused", "FDLoRA, product-wise", "FDLoRA, H = 0"
FEDAVG, FINE_TUNED = "FedAvg", "FedAvg, fine-tuned"
FEDPER, FEDREP = "FedPer", "FedRep"
WITH_HEADS = (FEDPER, FEDREP)
OTHERS = ("FedSA-LoRA", "Ditto", FEDPER, FEDREP, "FedALT", "FedDPA", "PFTT", "pFedLoRA")
SCENE = (FDLORA, FEDAVG, FINE_TUNED, "FedSA-LoRA", "Ditto", FEDREP, "FedALT", "FedDPA", "PFTT", LOCAL)
"""The methods of a scene: those that FDLoRA is to be compared with."""

SEARCH_SEED = 1000
ALIKE = 'federation.weighting="rule"'
"""Devices weigh alike, as FDLoRA's and FedALT's papers have it."""


def method(name: str) -> str:
    """The override that chooses the method of personalisation ``name``."""
    return f'personalization.method="{name}"'


def methods(rounds: int, steps: int) -> dict[str, Method]:
    """Every method by its name, in the order of a table. Each trains as many steps on a device: who trains two parts gives each
    half of them, and fine-tuning takes those of the last round.
    """
    half, own = f"training.local_steps={steps // 2}", steps // 2
    fdlora = (method("fdlora"), ALIKE)
    found = (
        Method(FDLORA, (*fdlora, *FLEET)),
        Method(UNFUSED, (*fdlora, 'personalization.fdlora.fusion="none"', *FLEET)),
        Method(PRODUCTS, (*fdlora, 'personalization.fdlora.fusion="products"', *FLEET)),
        Method(UNSYNCHRONISED, (*fdlora, "personalization.fdlora.synchronise_every=0", *FLEET)),
        Method(FEDAVG, ('evaluation.models="both"', *FLEET)),
        Method(FINE_TUNED, (method("fine_tune"), f"federation.rounds={rounds - 1}", *FLEET)),
        Method("FedSA-LoRA", ('federation.rule="fedsa_lora"', *FLEET)),
        Method("Ditto", (method("ditto"), half, f"personalization.ditto.steps={own}", *FLEET)),
        Method(FEDPER, (method("fedper"), *FLEET)),
        Method(FEDREP, (method("fedrep"), half, f"personalization.fedrep.head_steps={own}", *FLEET)),
        Method("FedALT", (method("fedalt"), ALIKE, *FLEET)),
        Method("FedDPA", (method("feddpa"), half, f"personalization.feddpa.steps={own}", *FLEET)),
        Method("PFTT", (method("pftt"), *FLEET)),
        Method("pFedLoRA", (method("pfedlora"), half, f"personalization.pfedlora.own_steps={own}", *FLEET)),
        Method(LOCAL, ('federation.rule="local_only"', *FLEET), sends=False),
    )
    return {each.name: each for each in found}


def claims(names: Sequence[str], metric: str, shown: Sequence[str]) -> tuple[Claim, ...]:
    """The claims on the methods ``names``, judged by ``metric`` and by others of ``shown``; one without a pair is left out."""
    others = tuple(name for name in OTHERS if name in names)
    own = (FDLORA, *others, FINE_TUNED)
    made = (
        *_by_word(names, metric, shown),
        Claim("FDLoRA above local only", "FDLoRA's abstract, of six baselines", pairs(FDLORA, LOCAL)),
        Claim("FDLoRA above FedAvg", "FDLoRA's abstract", pairs(FDLORA, FEDAVG)),
        Claim("FDLoRA above FedAvg, fine-tuned", "the plain baseline", pairs(FDLORA, FINE_TUNED)),
        Claim("FDLoRA above the other methods", "FDLoRA's abstract", pairs(FDLORA, others)),
        Claim("fusion improves FDLoRA", "FDLoRA's third stage", pairs(FDLORA, UNFUSED)),
        Claim("the paper's fusion above the product-wise one", "which is the exact sum", pairs(FDLORA, PRODUCTS)),
        Claim("synchronisation improves FDLoRA", "FDLoRA's second stage", pairs(FDLORA, UNSYNCHRONISED)),
        Claim("a model of one's own above the shared one", "the reason to personalise", pairs(own, FEDAVG)),
        Claim("a model of one's own above training alone", "the reason to federate", pairs(own, LOCAL)),
    )
    return tuple(claim for claim in made if all(name in names for pair in claim.pairs for name in pair))


def _by_word(names: Sequence[str], metric: str, shown: Sequence[str]) -> tuple[Claim, ...]:
    """FDLoRA's abstract claims to be above its baselines in five respects; what each is measured by is our reading."""
    others = tuple(name for name in (FEDAVG, FINE_TUNED, *OTHERS, LOCAL) if name in names)
    senders = tuple(name for name in others if name != LOCAL)
    source = "FDLoRA's abstract"
    words = (
        ("performance", "the mean over the devices", "", others),
        ("stability", "the spread over the devices", f"{metric}_spread", others),
        ("robustness", "the worst device", f"{metric}_worst", others),
        ("computation", "joules", "simulated_j", senders),
        ("communication", "bytes up", "uplink_bytes", senders),
    )
    return tuple(
        Claim(f"{word}: FDLoRA better in {what}", source, pairs(FDLORA, than), measure)
        for word, what, measure, than in words
        if not measure or measure in (*shown, "simulated_j", "uplink_bytes")
    )


def notes(data: str, model: str, spread: Sequence[str]) -> tuple[Setting, ...]:
    """The settings to report; ``paper`` is FDLoRA's value. ``data`` and ``model`` say what they are here, ``spread`` are the
    keys of the spread over the devices.
    """
    return (
        Setting("method", ("personalization.method",), None, "`none` is FedAvg, FedSA-LoRA and local only"),
        Setting("rule", ("federation.rule",)),
        Setting("data", ("data.source",), "logs and medicine", data),
        Setting("model", ("model.name",), "LLaMA2-7B", model),
        Setting("devices, all in every round", ("federation.devices",), "5"),
        Setting("spread over the devices", tuple(spread)),
        Setting(
            "training samples, all devices", ("data.train_samples",), None, "each sets a part of its own apart for its test"
        ),
        Setting("own test part", ("evaluation.device_test_share", "evaluation.device_test_column")),
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
        Setting("FedDPA: β, λ", ("personalization.feddpa.training_share", "personalization.feddpa.most")),
        Setting("PFTT, pFedLoRA: layers of one's own", ("personalization.pftt.own_layers",)),
        Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule", "training.batch_size")),
        Setting("learning rate", ("training.learning_rate",), None, "searched for each method; see table.md"),
        Setting("rank and α", ("adapter.rank", "adapter.alpha")),
        Setting("adapted", ("adapter.layers", "adapter.targets")),
        Setting("length of a text, in tokens", ("data.max_tokens",)),
        Setting("weights", ("federation.weighting",), None, "by samples, but alike with FDLoRA, as its paper has it"),
        Setting("plan", ("plan.policy", "plan.count", "plan.frequency"), None, "charged, and never binding"),
    )


MINILM = "MiniLM: 6 layers, width 384"
SMOLLM2 = "SmolLM2: 135 M parameters, 30 layers, width 576"
