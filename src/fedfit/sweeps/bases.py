"""The base recipe of each scale, common to all figures, and the settings to report."""

from __future__ import annotations

from fedfit.sweeps.sweep import Setting

SCALES = ("smoke", "small", "paper")
MEASURES = (
    "final_accuracy",
    "final_macro_f1",
    "untrained_accuracy",
    "mean_rank",
    "simulated_s",
    "simulated_j",
    "uplink_bytes",
    "wall_s",
    "refused",
)
"""The columns of a figure's tables."""

SEEDS = {"smoke": 1, "small": 3, "paper": 3}

SAMPLES_PER_DEVICE = {"smoke": 100, "small": 1000, "paper": 40_000}
"""Samples of a device in the recipes below; deadlines and energy budgets scale with them."""

_SMOKE = """
[data]
source = "pydocs"
max_tokens = 32
train_samples = 300
test_samples = 200
[model]
name = "minilm"
[federation]
rounds = 1
[training]
learning_rate = 1e-3
"""

_SMALL = """
[data]
source = "ag_news"
max_tokens = 32
train_samples = 3000
test_samples = 2000
[model]
name = "minilm"
[federation]
rounds = 4
[training]
learning_rate = 1e-3
"""

_PAPER = """
[data]
source = "ag_news"
max_tokens = 128
[model]
name = "FacebookAI/roberta-base"
[federation]
rounds = 10
[training]
learning_rate = 5e-5
[trunk_cache]
max_gigabytes = 40.0
"""

_COMMON = """
[partition]
kind = "iid"
[adapter]
rank = 8
alpha = 16
layers = "last:3"
targets = ["query", "value"]
"""

# Keys with the same values at every scale, by section; the texts above already open these sections.
_SHARED = {
    "federation": "devices = 3\ndevices_per_round = 3\n",
    "training": "local_epochs = 1\nbatch_size = 32\n",
}


def base(scale: str) -> str:
    """The recipe of ``scale``, in TOML. ``scale`` must be one of ``SCALES``."""
    text = {"smoke": _SMOKE, "small": _SMALL, "paper": _PAPER}[scale]
    for section, keys in _SHARED.items():
        text = text.replace(f"[{section}]\n", f"[{section}]\n{keys}")
    return text + _COMMON


NOTES = (
    Setting("model", ("model.name",), "RoBERTa-base, 12 layers"),
    Setting("data", ("data.source",), "AG News, 4 classes"),
    Setting("training samples, all devices", ("data.train_samples",), "120,000: 40,000 a device", "unset takes all"),
    Setting("test samples", ("data.test_samples",), "7,600", "unset takes all"),
    Setting("devices", ("federation.devices", "federation.devices_per_round"), "3, all in every round"),
    Setting("spread of the classes", ("partition.kind",), "the same on every device"),
    Setting("adapted layers", ("adapter.layers",), "last 3 of 12, but for Fig. 2"),
    Setting("adapted matrices", ("adapter.targets",), None, "two a layer, as LoRA's own paper takes them"),
    Setting("learning rate", ("training.learning_rate",), "5e-5"),
    Setting("local epochs a round", ("training.local_epochs",), "1"),
    Setting("rounds", ("federation.rounds",)),
    Setting("batch size", ("training.batch_size",)),
    Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule")),
    Setting(
        "α of LoRA", ("adapter.alpha", "adapter.scaling"), None, "with `alpha/r` the update's scale falls as the rank grows"
    ),
    Setting(
        "dropout",
        ("adapter.dropout", "training.dropout"),
        None,
        "none in the frozen layers, whose outputs are then computed once",
    ),
    Setting("length of a text, in tokens", ("data.max_tokens",)),
    Setting("classification head", ("adapter.head",), None, "new, and trained beside the factors; a new one only guesses"),
    Setting(
        "aggregation", ("federation.rule",), None, "the paper has no formula; the mean of each factor, weighted by samples"
    ),
)
"""Settings common to all figures: those that section 3 of the paper prints, and those that it omits."""
