"""The oracle of the split: the whole model that Hugging Face and PEFT make of a saved adapter."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from fedfit.adapters.lora import save_adapter
from fedfit.data.tokenize import Samples
from fedfit.models.batch import Batch
from fedfit.models.split import SplitModel
from tests.builders import CLASSES, lora_of


def whole_model(split: SplitModel, base: Path, folder: Path) -> Any:
    """PEFT's load of the saved adapter onto a fresh base model: no code of ours is in its forward pass."""
    save_adapter(split.model, folder, str(base))
    fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=CLASSES)
    return PeftModel.from_pretrained(fresh, str(folder), is_trainable=True).eval()


def hidden_at_the_cut(split: SplitModel, samples: Samples, rows: list[int]) -> Batch:
    """The trunk of each sample alone, in the model's own precision, padded with zeros."""
    states = [split.trunk(torch.from_numpy(samples.ids_of(row)).long()[None], None)[0] for row in rows]
    return Batch(torch.nn.utils.rnn.pad_sequence(states, batch_first=True), torch.tensor([len(state) for state in states]))


def peft_names(split: SplitModel) -> dict[str, torch.nn.Parameter]:
    """Our trainable parameters by their name in PEFT's model."""
    named = {}
    for module, (a, b, _) in lora_of(split).factors.items():
        named[f"base_model.model.{module}.lora_A.default.weight"] = a
        named[f"base_model.model.{module}.lora_B.default.weight"] = b
    for name, parameter in lora_of(split).head.items():
        module, _, rest = name.partition(".")
        named[f"base_model.model.{module}.modules_to_save.default.{rest}"] = parameter
    return named


def gradients_by_peft_name(split: SplitModel) -> dict[str, Tensor]:
    """The gradients of ``peft_names``; each must have one."""
    found = {}
    for name, parameter in peft_names(split).items():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found
