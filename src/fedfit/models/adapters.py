"""PEFT in and out: LoRA is injected by PEFT, read and written as an ``Update``, and saved in PEFT's own format.

Names are those of the base model's modules (``bert.encoder.layer.3.attention.self.query``) and head parameters
(``classifier.weight``), not PEFT's wrappers: what travels does not depend on how PEFT names things.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from fedfit.errors import UpdateRefused
from fedfit.models.families import Family
from fedfit.models.fused_lora import FusedLora
from fedfit.records import Factors, Update
from fedfit.settings import AdapterSettings

_ADAPTER = "default"  # PEFT's name of the one adapter that a model here has


def inject(model: nn.Module, family: Family, settings: AdapterSettings, layers: tuple[int, ...], seed: int) -> PeftModel:
    """Wraps ``model`` with LoRA on ``settings.targets`` of ``layers``; A is drawn from ``seed``, B is zero.

    The head is always saved with the adapter, also when frozen: a fresh head cannot be had from anywhere else.
    """
    ends = [family.targets[target] for target in settings.targets]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[f"layer.{layer}.{end}" for layer in layers for end in ends],
        layers_to_transform=list(layers),
        layers_pattern="layer",
        modules_to_save=list(family.head_modules),
    )
    config._register_custom_module({nn.Linear: FusedLora})
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    for parameter in head_parameters(wrapped, family).values():
        parameter.requires_grad_(settings.head == "train")
    return cast(PeftModel, wrapped)


def lora_modules(model: nn.Module) -> dict[str, LoraLayer]:
    """Adapted modules by their name in the base model, in the model's order."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            found[name.removeprefix("base_model.model.")] = module
    return found


def head_parameters(model: PeftModel, family: Family) -> dict[str, nn.Parameter]:
    """Parameters of the head by their name in the base model (``classifier.weight``)."""
    base = model.get_base_model()
    found = {}
    for module_name in family.head_modules:
        wrapper: Any = base.get_submodule(module_name)
        for name, parameter in wrapper.modules_to_save[_ADAPTER].named_parameters():
            found[f"{module_name}.{name}"] = parameter
    return found


class AdapterState:
    """The trainable tensors of the resident model, copied in and out in place; nothing is built.

    ``factors`` maps a module to its parameters ``(A, B)`` and scale; ``head`` is empty when the head is frozen.
    """

    def __init__(self, model: PeftModel, family: Family) -> None:
        self.factors = {
            name: (
                cast(nn.Parameter, module.lora_A[_ADAPTER].weight),
                cast(nn.Parameter, module.lora_B[_ADAPTER].weight),
                float(module.scaling[_ADAPTER]),
            )
            for name, module in lora_modules(model).items()
        }
        head = head_parameters(model, family)
        self.head = {name: parameter for name, parameter in head.items() if parameter.requires_grad}

    def parameters(self) -> list[nn.Parameter]:
        """Every trainable parameter, in a fixed order."""
        pairs = [parameter for a, b, _ in self.factors.values() for parameter in (a, b)]
        return [*pairs, *self.head.values()]

    @torch.no_grad()
    def load(self, update: Update) -> None:
        """Copies ``update`` into the model.

        Raises:
            UpdateRefused: when a tensor is missing, unknown, of another shape or type, or a scale differs.
        """
        check_same_form(update, self._view())
        for name, (a, b, _) in self.factors.items():
            a.copy_(update.factors[name].a)
            b.copy_(update.factors[name].b)
        for name, parameter in self.head.items():
            parameter.copy_(update.head[name])

    def snapshot(self, weight: float = 1.0, metrics: dict[str, float] | None = None) -> Update:
        """A copy of the trainable tensors on the CPU."""
        view = self._view()
        return Update(
            factors={name: Factors(_copy(f.a), _copy(f.b), f.scale) for name, f in view.factors.items()},
            head={name: _copy(tensor) for name, tensor in view.head.items()},
            weight=weight,
            metrics=metrics or {},
        )

    def _view(self) -> Update:
        factors = {name: Factors(a.data, b.data, scale) for name, (a, b, scale) in self.factors.items()}
        return Update(factors=factors, head={name: parameter.data for name, parameter in self.head.items()})


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def check_same_form(update: Update, reference: Update) -> None:
    """Holds ``update`` to the names, shapes, types and scales of ``reference``; strict on both sides.

    Raises:
        UpdateRefused: naming the first tensor that is missing, unknown or of another shape or type.
    """
    for group, there, wanted in (
        ("adapter", set(update.factors), set(reference.factors)),
        ("head", set(update.head), set(reference.head)),
    ):
        if there != wanted:
            missing, unknown = sorted(wanted - there), sorted(there - wanted)
            raise UpdateRefused(f"{group}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    for name, factors in update.factors.items():
        known = reference.factors[name]
        if (_form(factors.a), _form(factors.b), factors.scale) != (_form(known.a), _form(known.b), known.scale):
            raise UpdateRefused(
                f"{name}: got A {_form(factors.a)}, B {_form(factors.b)}, scale {factors.scale}; "
                f"wanted A {_form(known.a)}, B {_form(known.b)}, scale {known.scale}"
            )
    for name, tensor in update.head.items():
        if _form(tensor) != _form(reference.head[name]):
            raise UpdateRefused(f"{name}: got {_form(tensor)}, wanted {_form(reference.head[name])}")


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def save_adapter(model: PeftModel, folder: Path, base_model: str) -> None:
    """Writes PEFT's own format; ``PeftModel.from_pretrained(base, folder)`` loads it."""
    model.peft_config[_ADAPTER].base_model_name_or_path = base_model
    model.save_pretrained(str(folder))
    (folder / "README.md").write_text(_CARD.format(base_model=base_model), encoding="utf-8")


_CARD = """# A LoRA adapter and classification head, trained by fedfit

Base model: `{base_model}`. `labels.json` names the classes, in the order of the outputs.

```python
import json
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

labels = json.load(open("labels.json"))
base = AutoModelForSequenceClassification.from_pretrained("{base_model}", num_labels=len(labels))
model = PeftModel.from_pretrained(base, ".").eval()
tokens = AutoTokenizer.from_pretrained("{base_model}")("a text", return_tensors="pt")
print(labels[model(**tokens).logits.argmax()])
```
"""
