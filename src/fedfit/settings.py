"""The recipe, as frozen dataclasses: every key, its default, its limits and its one-line meaning.

Layer 0: any room may take its section as an argument. Loading, overriding and cross-checking live in ``experiment``; the
recipe reference in the docs is generated from the metadata here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfit.core.update import AdapterSize
from fedfit.data_settings import DataSettings, PartitionSettings
from fedfit.fleet_settings import ChannelSettings, DeviceSettings, FleetSettings, PlanSettings, ServerSettings
from fedfit.schema import Draw, key, options_key


@dataclass(frozen=True)
class ModelSettings:
    """The frozen encoder."""

    name: str = key("minilm", "alias (`minilm`, `smollm2`), hub name, or local directory of a supported model")


@dataclass(frozen=True)
class AdapterSettings:
    """What is adapted, and how much of it."""

    kind: str = key("lora", "the adapter, by its name or as `package.module:KIND`")
    rank: int = key(8, "LoRA rank r; with a plan, the highest that it may give", minimum=1)
    alpha: float = key(16.0, "LoRA α; the update is scaled by α/r", above=0)
    scaling: str = key(
        "alpha/r",
        "the scale s at a rank r other than `rank`: α/r, α/√r (rsLoRA, at every rank), or `constant`: α/`rank` for all",
        choices=("alpha/r", "alpha/sqrt(r)", "constant"),
    )
    dropout: float = key(0.0, "dropout on the input of the factors", minimum=0, maximum=0.99)
    layers: str | tuple[int, ...] = key("last:3", "`first:k`, `middle:k`, `last:k`, `all`, `3-5` or `[3, 4, 5]`")
    targets: tuple[str, ...] = key(
        ("query", "value"), "adapted matrices: `query`, `key`, `value`, `attention_output`, `intermediate`, `output`"
    )
    head: str = key("train", "whether the classification head is trained and sent", choices=("train", "freeze"))

    def size(self, rank: int) -> AdapterSize:
        """``rank`` with its scale."""
        if self.scaling == "constant":
            return AdapterSize(rank, self.alpha / self.rank)
        return AdapterSize(rank, self.alpha / (math.sqrt(rank) if self.scaling == "alpha/sqrt(r)" else rank))


@dataclass(frozen=True)
class FederationSettings:
    """Who takes part and how the updates are put together."""

    devices: int = key(3, "devices that hold data", minimum=1)
    devices_per_round: int = key(3, "devices drawn in each round", minimum=1)
    rounds: int = key(5, "rounds", minimum=1)
    joins: tuple[int, ...] | None = key(
        None, "the first round in which each device can be drawn, one number a device; default 1 for all"
    )
    rule: str = key(
        "fedavg", "aggregation rule, by its name or as `package.module:ENTRY`; keys of its own stand in `[federation.<rule>]`"
    )
    ranks: tuple[int, ...] | Draw | None = key(
        None,
        "ranks of the devices, listed or drawn, for rules that take mixed ranks; default `adapter.rank` for all",
        minimum=1,
        whole=True,
    )
    rank_shares: tuple[float, ...] | Draw | None = key(
        None, "in place of `ranks`: the share of the global rank that each device gets, listed or drawn", above=0, maximum=1
    )
    weighting: str = key(
        "rule",
        "how devices weigh in the mean: by their samples, alike, or as the rule's paper has it",
        choices=("rule", "samples", "uniform"),
    )
    server_optimizer: str = key(
        "none",
        "the server's step along the round's mean change: FedAvgM, FedAdagrad and so on; `none` takes the mean itself",
        choices=("none", "sgd", "momentum", "nesterov", "adagrad", "adam", "yogi"),
    )
    server_learning_rate: float = key(
        1.0,
        "its learning rate: a factor on the mean change; with adagrad, adam and yogi nearly each coordinate's whole step, "
        "so start from 0.01 there",
        above=0,
    )
    server_momentum: float = key(0.9, "its β1, in all but sgd; 0 for adagrad without momentum", minimum=0, maximum=0.999)
    server_beta2: float = key(0.99, "its β2, in adam and yogi", minimum=0, maximum=0.9999)
    server_tau: float = key(1e-3, "its τ, in adagrad, adam and yogi; larger is less adaptive", above=0)
    reply_deadline_s: float | None = key(
        None, "wall time that a device has for its reply; a later one counts as lost; unset for none", above=0
    )
    max_failed_rounds: int = key(3, "stop after this many rounds in a row without one usable update", minimum=1)
    options: Mapping[str, Any] = options_key("rules")


@dataclass(frozen=True)
class TrainingSettings:
    """The inner loop on a device."""

    local_epochs: int = key(1, "passes over the device's samples in a round", minimum=1)
    local_steps: int | None = key(None, "steps in a round, instead of epochs", minimum=1)
    batch_size: int = key(32, "samples a step", minimum=1)
    learning_rate: float = key(1e-3, "peak learning rate", above=0)
    optimizer: str = key("adamw", "optimiser, fresh in every round", choices=("adamw", "sgd"))
    weight_decay: float = key(0.01, "decoupled for adamw, L2 for sgd", minimum=0)
    momentum: float = key(0.0, "for sgd", minimum=0, maximum=0.999)
    warmup: float = key(0.0, "share of the whole run over which the rate rises from 0", minimum=0, maximum=1)
    schedule: str = key("constant", "decay of the rate over the whole run", choices=("constant", "linear", "cosine"))
    max_grad_norm: float = key(1.0, "clip the gradient to this norm; 0 leaves it", minimum=0)
    proximal: float = key(0.0, "FedProx: μ of μ/2·‖θ − θ_received‖², added to the loss; 0 leaves it out", minimum=0)
    dropout: bool = key(False, "the frozen base's dropout in the tail; LoRA's own is `adapter.dropout`")
    precision: str = key("fp32", "autocast of the tail", choices=("fp32", "bf16", "fp16"))
    patience: int = key(
        0, "stop after this many evaluations in a row without a better value of the task's first metric; 0 never", minimum=0
    )
    target_accuracy: float = key(0.0, "stop when the test accuracy reaches it; 0 never stops", minimum=0, maximum=1)


@dataclass(frozen=True)
class TaskSettings:
    """What the model learns."""

    kind: str = key(
        "classification",
        "the task: `classification`, `instruction`, `preference`, `language_modelling`, or one's own as `package.module:ENTRY`",
    )
    metrics: tuple[str, ...] | None = key(
        None,
        "measured beside the loss, the first one leading; default those of the task. Classification: `accuracy`, `macro_f1`, "
        "`weighted_f1`, `balanced_accuracy`, `mcc`, by default the first two; `f1`, `precision` and `recall` of the class "
        "`positive`",
    )
    positive: str | None = key(
        None, "the class that `f1`, `precision` and `recall` are of; of exact answers the one that `answer_f1` is of"
    )
    template: str = key(
        "chat",
        "how a prompt is put to a language model: `chat` (the tokenizer's own), `alpaca`, or a text with {prompt} and "
        "{response}",
    )
    max_new_tokens: int = key(
        64, "longest generated answer, in tokens: at an evaluation, and of `fedfit chat` and `predict` with the run", minimum=1
    )
    generate_samples: int = key(0, "test rows that are answered at each evaluation, for ROUGE-L and the report", minimum=0)
    loss: str = key("dpo", "of preferences", choices=("dpo", "ipo", "kto"))
    beta: float = key(0.1, "β of the preference loss: how strongly the model is held to its reference", above=0)
    reference: str = key(
        "base",
        "the model that preferences are measured against: the frozen base, or what the device was sent",
        choices=("base", "received"),
    )


@dataclass(frozen=True)
class TransportSettings:
    """How updates are encoded, in each direction."""

    uplink: tuple[str, ...] = key(
        ("plain",),
        "codec of what devices send: `plain`, one's own as `package.module:Codec`, or a chain of stages: `delta`, "
        "`top_k:share`, `random_k:share`, `low_rank:r`, `fedobd:share`, `fp16`, `bf16`, `nf4`, `quantize:bits`; `zstd` behind "
        "it compresses packets",
    )
    downlink: tuple[str, ...] = key(
        ("plain",), "codec of what devices are sent: `plain`, one's own, or a stage that rounds; `zstd` behind it"
    )
    error_feedback: bool = key(False, "each device keeps what a packet left out and adds it to its next, with `delta`")
    scale_per: str = key(
        "block",
        "numbers that share a scale in `quantize` and `nf4`: `block` of them, a `row`, or a `tensor`",
        choices=("block", "row", "tensor"),
    )
    block: int = key(64, "numbers in a block", minimum=2, maximum=65536)

    @property
    def per(self) -> int | str:
        """Which numbers share a scale: the length of a block, ``row`` or ``tensor``."""
        return self.block if self.scale_per == "block" else self.scale_per


@dataclass(frozen=True)
class PersonalizationSettings:
    """A model of each device's own, beside the shared one or in part."""

    method: str = key(
        "none",
        "how devices come by models of their own, by its name or as `package.module:ENTRY`; keys of its own stand in "
        "`[personalization.<method>]`",
    )
    few_shot_share: float = key(
        0.05, "share of each device's samples set aside from training and test, for methods that fuse", above=0, maximum=0.5
    )
    options: Mapping[str, Any] = options_key("methods")


@dataclass(frozen=True)
class EvaluationSettings:
    """Which models are measured, on which samples, and how often."""

    models: str = key(
        "auto",
        "`global`: the global model on the test set; `devices`: each device's model on its own test part; `both`; `auto`: "
        "devices' models where a rule or a method keeps parts private, both with other methods, else the global one",
        choices=("auto", "global", "devices", "both"),
    )
    every: int = key(1, "rounds between two evaluations; round 0 and the last are always measured", minimum=1)
    device_test_share: float = key(
        0.0, "share of each device's samples that it sets apart as its own test part", minimum=0, maximum=0.9
    )
    others_samples: int = key(
        0,
        "test samples of other devices on which each device's models are measured besides; their metrics begin with `others_`",
        minimum=0,
    )
    device_test_column: str | None = key(
        None,
        "column whose values are set apart whole: samples of one value are for training on every device, or for the test on "
        "every device, about the share of all samples",
    )


@dataclass(frozen=True)
class TrunkCacheSettings:
    """The outputs of the frozen trunk, kept on disk between rounds, devices and runs."""

    enabled: bool = key(True, "compute the trunk once a sample")
    dtype: str = key("float32", "stored type; float16 halves the space", choices=("float32", "float16"))
    max_gigabytes: float = key(20.0, "bound on the whole cache; the least recently used model goes first", above=0)
    folder: str | None = key(None, "where; default `$FEDFIT_CACHE`, else `~/.cache/fedfit`")


@dataclass(frozen=True)
class TrackingSettings:
    """Where the numbers of each round go beside the run folder's own files."""

    sinks: tuple[str, ...] = key(
        ("tensorboard",), "trackers to write to: `tensorboard`, `mlflow`, `wandb`; the latter two need an extra package"
    )


@dataclass(frozen=True)
class Recipe:
    """A whole run. Sections are the tables of the TOML file."""

    name: str = key("unnamed", "names the run folder and the figures")
    seed: int = key(0, "every random draw is derived from it", minimum=0)
    data: DataSettings = field(default_factory=DataSettings)
    partition: PartitionSettings = field(default_factory=PartitionSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    transport: TransportSettings = field(default_factory=TransportSettings)
    personalization: PersonalizationSettings = field(default_factory=PersonalizationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    trunk_cache: TrunkCacheSettings = field(default_factory=TrunkCacheSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    fleet: FleetSettings = field(default_factory=FleetSettings)
    channel: ChannelSettings = field(default_factory=ChannelSettings)
    device: tuple[DeviceSettings, ...] = ()
    server: tuple[ServerSettings, ...] = ()
