"""What the files of a saved adapter say of it: its sizes in PEFT's configuration, and the classes in the model's."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn


def describe_sizes(config: LoraConfig, modules: Mapping[str, LoraLayer], adapter: str) -> None:
    """Writes ranks and scales into ``config`` as PEFT reads them, scale = lora_alpha / r.

    The commonest size of all is that of the configuration; modules of another size are named in its patterns.
    """
    # 15 digits: (16 / 7) · 7 is written as 16, and the scale is still that of the model to the last bit or nearly so.
    sizes = {
        name: (module.r[adapter], float(f"{module.scaling[adapter] * module.r[adapter]:.15g}"))
        for name, module in modules.items()
    }
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    config.r, config.lora_alpha, config.use_rslora = rank, alpha, False
    config.rank_pattern = {name: its for name, (its, _) in sizes.items() if its != rank}
    config.alpha_pattern = {name: its for name, (_, its) in sizes.items() if its != alpha}


def labelled_config(model: nn.Module, labels: Sequence[str]) -> Any:
    """The configuration of a classifier, a copy, with ``labels`` as the names of its outputs."""
    config: Any = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    return config
