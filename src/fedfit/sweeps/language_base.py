"""What the comparisons of language models share: their size, their recipe, and the settings to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfit.sweeps.sweep import Setting

SCALES = ("smoke", "small", "paper")
SEARCH_SEED = 1000


@dataclass(frozen=True)
class Size:
    """The size of a comparison at one scale. ``None`` samples are all that the data set has.

    ``extra`` are further lines of ``[training]``, ``template`` is ``task.template``; ``evaluations`` beside that of the
    untrained model.
    """

    model: str
    layers: str
    max_tokens: int
    train_samples: int | None
    test_samples: int | None
    devices_per_round: int
    rounds: int
    local_steps: int
    batch_size: int
    rates: tuple[float, ...]
    seeds: int
    evaluations: int = 1
    template: str = "chat"
    extra: str = ""


def base(size: Size, devices: int, rank: int, alpha: int, targets: Sequence[str], task: str) -> str:
    """A recipe in TOML of ``devices`` natural clients. ``task`` are the lines of ``[task]``; the partition's column is open."""
    counts = {"train_samples": size.train_samples, "test_samples": size.test_samples}
    samples = "".join(f"{key} = {count}\n" for key, count in counts.items() if count is not None)
    return f"""
[task]
template = {_quoted(size.template)}
{task}
[data]
max_tokens = {size.max_tokens}
{samples}[partition]
kind = "by_column"
[model]
name = "{size.model}"
[adapter]
rank = {rank}
alpha = {alpha}
scaling = "constant"
layers = "{size.layers}"
targets = [{", ".join(f'"{target}"' for target in targets)}]
[federation]
devices = {devices}
devices_per_round = {size.devices_per_round}
rounds = {size.rounds}
weighting = "samples"
max_failed_rounds = 1000
[training]
local_steps = {size.local_steps}
batch_size = {size.batch_size}
{size.extra}
[evaluation]
every = {-(-size.rounds // size.evaluations)}
"""


def notes(paper: Mapping[str, str], *own: Setting) -> tuple[Setting, ...]:
    """The settings to report; ``paper`` has the paper's values by the settings' names here, ``own`` are the study's own."""
    shared = (
        Setting("model", ("model.name",), None, "SmolLM2: 135 M parameters, 30 layers, width 576"),
        Setting("data", ("data.source", "partition.column")),
        Setting("samples, training and test", ("data.train_samples", "data.test_samples"), None, "unset is all"),
        Setting("devices", ("federation.devices",)),
        Setting("devices drawn in a round", ("federation.devices_per_round",)),
        Setting("rounds", ("federation.rounds",), None, "few at `small`, so that all runs fit one hour on two cores"),
        Setting("steps of a device in a round", ("training.local_steps",)),
        Setting("samples a step", ("training.batch_size",)),
        Setting("optimiser", ("training.optimizer", "training.weight_decay", "training.schedule")),
        Setting("learning rate", ("training.learning_rate",), None, "searched for each method; see table.md"),
        Setting("rank and α", ("adapter.rank", "adapter.alpha", "adapter.scaling")),
        Setting("adapted", ("adapter.layers", "adapter.targets")),
        Setting("length of a sample, in tokens", ("data.max_tokens",)),
        Setting("template", ("task.template",)),
        Setting("weights", ("federation.weighting",)),
        Setting("rounds between evaluations", ("evaluation.every",), None, "each has the whole test part"),
    )
    return tuple(Setting(note.what, note.keys, paper.get(note.what), note.why) for note in (*shared, *own))


def _quoted(text: str) -> str:
    """``text`` as a string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
