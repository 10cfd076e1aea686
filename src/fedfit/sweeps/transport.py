"""``fedfit reproduce transport``: ways of sending less, on one curve: accuracy over bytes.

The codec chains of ``[transport]`` beside float32 and FLASC (arXiv 2406.05233), which sends sparse adapters of its own. All
train alike, at one learning rate. This module runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.mixed_ranks import FLEET, pairs
from fedfit.sweeps.sweep import Setting

NAME = "transport"
SCALES = ("smoke", "small")
SEARCH_SEED = 1000


@dataclass(frozen=True)
class Size:
    """The size of the comparison at one scale."""

    source: str
    alphas: tuple[float, ...]
    devices: int
    samples: int
    test_samples: int
    rounds: int
    steps: int
    rate: float
    seeds: int


SIZES = {
    "smoke": Size("pydocs", (0.5,), 3, 200, 60, 2, 2, 3e-3, 1),
    "small": Size("ag_news", (0.5,), 10, 3000, 2000, 8, 8, 1e-2, 3),
}

FLOAT32, HALF, BYTES = "float32", "bf16 both ways", "8 bits both ways"
FOUR, NF4, ONE, RAW = "4 bits", "NF4", "1 bit", "1 bit, no feedback"
TENTH, HUNDREDTH, HUNDREDTH_RAW = "top 10 %, 4 bits", "top 1 %, 4 bits", "top 1 %, 4 bits, no feedback"
RANDOM, LOW_RANK, FEDOBD = "random 10 %, 4 bits", "low rank 1, 4 bits", "FedOBD"
FLASC, FLASC_LESS = "FLASC, 1/4", "FLASC, 1/16"

CHAINS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    HALF: (("bf16",), ("bf16",), False),
    BYTES: (("delta", "quantize:8"), ("quantize:8",), True),
    FOUR: (("delta", "quantize:4"), ("quantize:8",), True),
    NF4: (("delta", "nf4"), ("quantize:8",), True),
    ONE: (("delta", "quantize:1"), ("quantize:8",), True),
    RAW: (("delta", "quantize:1"), ("quantize:8",), False),
    FEDOBD: (("delta", "fedobd:0.3"), ("quantize:8",), True),
    LOW_RANK: (("delta", "low_rank:1", "quantize:4"), ("quantize:8",), True),
    TENTH: (("delta", "top_k:0.1", "quantize:4"), ("quantize:8",), True),
    RANDOM: (("delta", "random_k:0.1", "quantize:4"), ("quantize:8",), True),
    HUNDREDTH: (("delta", "top_k:0.01", "quantize:4"), ("quantize:8",), True),
    HUNDREDTH_RAW: (("delta", "top_k:0.01", "quantize:4"), ("quantize:8",), False),
}
"""Line → uplink, downlink, and whether devices keep what a packet left out."""
_SIXTEENTH = (ONE, LOW_RANK, TENTH, HUNDREDTH)
"""Lines that send a sixteenth of float32's bytes up, or less."""


def transport(scale: str) -> Comparison:
    """The comparison at ``scale``, one of ``SCALES``."""
    size = SIZES[scale]
    return Comparison(
        name=NAME,
        title="Ways of sending less",
        scale=scale,
        base=_base(size),
        methods=_methods(),
        cases=tuple(Case(size.source, alpha) for alpha in size.alphas),
        rates=(size.rate,),
        search_alpha=None,
        search_seed=SEARCH_SEED,
        targets={},
        claims=CLAIMS,
        notes=NOTES,
        seeds=tuple(range(size.seeds)),
    )


def _methods() -> tuple[Method, ...]:
    """The methods in the order of the table."""
    flasc = ('federation.rule="flasc"', "federation.flasc.download_density=0.25")
    return (
        Method(FLOAT32, FLEET),
        *(Method(name, (*_keys(*chain), *FLEET)) for name, chain in CHAINS.items()),
        Method(FLASC, (*flasc, "federation.flasc.upload_density=0.25", *FLEET)),
        Method(FLASC_LESS, (*flasc, "federation.flasc.upload_density=0.0625", *FLEET)),
    )


def _keys(uplink: Sequence[str], downlink: Sequence[str], feedback: bool) -> tuple[str, ...]:
    feeds = ("transport.error_feedback=true",) if feedback else ()
    return (f"transport.uplink={_list(uplink)}", f"transport.downlink={_list(downlink)}", *feeds)


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


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
rank = 8
alpha = 8
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
batch_size = 16
[evaluation]
every = {max(1, size.rounds // 5)}
"""


_OWN = "an aim of our own"
CLAIMS = (
    Claim("half precision costs nothing", _OWN, pairs(HALF, FLOAT32), margin=0.3),
    Claim("a quarter both ways within 0.3 points", _OWN, pairs(BYTES, FLOAT32), margin=0.3),
    Claim("a sixteenth up within 0.3 points, top 10 %", _OWN, pairs(TENTH, FLOAT32), margin=0.3),
    Claim("a twentieth up within 0.3 points, unbiased bits", _OWN, pairs(RAW, FLOAT32), margin=0.3),
    Claim("a twelfth up within 0.3 points, FedOBD", _OWN, pairs(FEDOBD, FLOAT32), margin=0.3),
    Claim("a sixteenth up within a point, any way", _OWN, pairs(_SIXTEENTH, FLOAT32), margin=1.0),
    Claim("error feedback helps what is biased", "arXiv 1809.07599", pairs(HUNDREDTH, HUNDREDTH_RAW)),
    Claim("error feedback helps one bit", "arXiv 1901.09847", pairs(ONE, RAW)),
    Claim("the largest rather than random ones", "arXiv 1809.07599", pairs(TENTH, RANDOM)),
    Claim("NF4's levels above even ones", "QLoRA, arXiv 2305.14314, of weights", pairs(NF4, FOUR)),
    Claim("top 10 % above FLASC of a quarter", "fewer bytes, both ways", pairs(TENTH, FLASC)),
    Claim("top 10 % above FLASC of a sixteenth", "a third of its bytes up", pairs(TENTH, FLASC_LESS)),
    Claim("unbiased bits above FLASC", "a third of its bytes up, and less", pairs(RAW, (FLASC, FLASC_LESS))),
    Claim("FedOBD sends less than 4 bits", "arXiv 2208.05174: no accuracy lost", pairs(FEDOBD, FOUR), "uplink_bytes"),
)

NOTES = (
    Setting("what devices send", ("transport.uplink",)),
    Setting("what devices are sent", ("transport.downlink",)),
    Setting("error feedback", ("transport.error_feedback",)),
    Setting("rule", ("federation.rule",), None, "`fedavg` with every chain"),
    Setting("FLASC: densities", ("federation.flasc.download_density", "federation.flasc.upload_density")),
    Setting("data", ("data.source",)),
    Setting("model", ("model.name",), None, "MiniLM: 6 layers, width 384"),
    Setting("devices, all in every round", ("federation.devices",)),
    Setting("spread over the devices", ("partition.kind", "partition.alpha")),
    Setting("training samples, all devices", ("data.train_samples",)),
    Setting("test samples", ("data.test_samples",)),
    Setting("rounds", ("federation.rounds",)),
    Setting("steps of a device in a round", ("training.local_steps",)),
    Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule", "training.batch_size")),
    Setting("learning rate", ("training.learning_rate",), None, "the same for all"),
    Setting("rank and α", ("adapter.rank", "adapter.alpha")),
    Setting("adapted", ("adapter.layers", "adapter.targets")),
    Setting("length of a text, in tokens", ("data.max_tokens",)),
    Setting("weights", ("federation.weighting",)),
    Setting("plan", ("plan.policy", "plan.count", "plan.frequency"), None, "charged, and never binding"),
)
"""The settings to report."""
