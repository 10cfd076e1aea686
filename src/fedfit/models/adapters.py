"""PEFT in and out: LoRA is injected by PEFT, read and written as an ``Update``, and saved in PEFT's own format.

The rank is not fixed: what is loaded brings its own, from 1 to the one that the model was built with.

Names are those of the base model's modules (``bert.encoder.layer.3.attention.self.query``) and head parameters
(``classifier.weight``), not PEFT's wrappers: what travels does not depend on how PEFT names things.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from fedfit.errors import UpdateRefused
from fedfit.models.family import Family
from fedfit.models.fused_lora import FusedLora
from fedfit.models.peft_files import CARD, describe_sizes
from fedfit.models.resident_pair import ResidentPair
from fedfit.records import Factors, Update
from fedfit.settings import AdapterSettings

_ADAPTER = "default"  # PEFT's name of the one adapter that a model here has


def inject(model: nn.Module, family: Family, settings: AdapterSettings, layers: tuple[int, ...], seed: int) -> PeftModel:
    """Wraps ``model`` with LoRA on ``settings.targets`` of ``layers``; A is drawn from ``seed``, B is zero.

    Rank and scale are those of ``settings.size(settings.rank)``; with `constant` too PEFT's α/r is that scale.
    The head is always saved with the adapter, also when frozen: a fresh head cannot be had from anywhere else.
    """
    ends = [family.targets[target] for target in settings.targets]
    pattern = family.layers.rpartition(".")[2]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.scaling == "alpha/sqrt(r)",
        lora_dropout=settings.dropout,
        target_modules=[f"{pattern}.{layer}.{end}" for layer in layers for end in ends],
        layers_to_transform=list(layers),
        layers_pattern=pattern,
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

    ``rank`` is the resident rank, the highest that can be loaded; ``head`` is empty when the head is frozen.
    """

    def __init__(self, model: PeftModel, family: Family) -> None:
        self._pairs = {name: ResidentPair(module, _ADAPTER) for name, module in lora_modules(model).items()}
        self.rank = max(pair.a.shape[0] for pair in self._pairs.values())
        head = head_parameters(model, family)
        self.head = {name: parameter for name, parameter in head.items() if parameter.requires_grad}

    @property
    def factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter, float]]:
        """Parameters ``(A, B)`` and scale by module, at the rank that was loaded last."""
        return {name: (pair.a, pair.b, pair.scale) for name, pair in self._pairs.items()}

    def parameters(self) -> list[nn.Parameter]:
        """Every trainable parameter, in a fixed order."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable parameter by its name in ``aggregation.base.named_tensors``, in a fixed order."""
        pairs = {f"{name} {end}": getattr(pair, end.lower()) for name, pair in self._pairs.items() for end in "AB"}
        return pairs | {f"head {name}": parameter for name, parameter in self.head.items()}

    def make_room(self, rank: int) -> None:
        """Lets ranks up to ``rank`` be loaded; an optimiser made before is of no use after it."""
        for pair in self._pairs.values():
            pair.make_room(rank)
        self.rank = max(self.rank, rank)

    def train_only(self, parts: frozenset[str]) -> list[nn.Parameter]:
        """Lets gradients reach ``parts`` of ``a``, ``b`` and ``head`` alone; returns their parameters, in a fixed order."""
        groups = {
            "a": [pair.a for pair in self._pairs.values()],
            "b": [pair.b for pair in self._pairs.values()],
            "head": list(self.head.values()),
        }
        for name, parameters in groups.items():
            for parameter in parameters:
                parameter.requires_grad_(name in parts)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def load(self, update: Update) -> None:
        """Copies ``update`` into the model, which takes over its ranks and scales.

        Modules may differ in rank, and each scale may be any positive number. Gradients of a pair whose rank changes are
        dropped; an optimiser made before such a change is of no use after it.

        Raises:
            UpdateRefused: when a tensor is missing, unknown, or of another shape or type, A and B differ in rank, or the
                rank is above the resident one. The model is then as it was.
        """
        check_loadable(update, self._view(), self.rank)
        for name, pair in self._pairs.items():
            pair.load(update.factors[name])
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
        factors = {name: pair.factors for name, pair in self._pairs.items()}
        return Update(factors=factors, head={name: parameter.data for name, parameter in self.head.items()})


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def check_same_form(update: Update, reference: Update) -> None:
    """Holds ``update`` to the names, shapes, types and scales of ``reference``, what travels beside included; strict on both
    sides.

    Raises:
        UpdateRefused: naming the first tensor that is missing, unknown or of another shape or type.
    """
    _check_names_and_head(update, reference)
    for name, factors in update.factors.items():
        known = reference.factors[name]
        if (_form(factors.a), _form(factors.b), factors.scale) != (_form(known.a), _form(known.b), known.scale):
            raise UpdateRefused(
                f"{name}: {_pair_form(factors)}; wanted A {_form(known.a)}, B {_form(known.b)}, scale {known.scale}"
            )
    _check_extra(update, reference)


def _check_extra(update: Update, reference: Update) -> None:
    there, wanted = ({name: _form(tensor) for name, tensor in each.extra.items()} for each in (update, reference))
    if there != wanted:
        raise UpdateRefused(f"extra tensors: got {there}, wanted {wanted}")


def check_loadable(update: Update, resident: Update, most: int) -> None:
    """Holds ``update`` to the names, types and shapes of ``resident``, with ranks from 1 to ``most`` and any positive scale.

    Raises:
        UpdateRefused: naming the first tensor that cannot be loaded.
    """
    _check_names_and_head(update, resident)
    for name, factors in update.factors.items():
        known = resident.factors[name]
        inputs, outputs, kind = known.a.shape[1], known.b.shape[0], known.a.dtype
        rank = factors.a.shape[0] if factors.a.dim() else 0
        shapes_fit = (factors.a.shape, factors.b.shape) == ((rank, inputs), (outputs, rank)) and 1 <= rank <= most
        if not shapes_fit or not factors.a.dtype == factors.b.dtype == kind:
            raise UpdateRefused(
                f"{name}: {_pair_form(factors)}; wanted A (rank, {inputs}) and B ({outputs}, rank) of {kind} "
                f"with one rank from 1 to {most}"
            )
        if not (math.isfinite(factors.scale) and factors.scale > 0):
            raise UpdateRefused(f"{name}: the scale {factors.scale} is not a positive number")


def _check_names_and_head(update: Update, reference: Update) -> None:
    for group, there, wanted in (
        ("adapter", set(update.factors), set(reference.factors)),
        ("head", set(update.head), set(reference.head)),
    ):
        if there != wanted:
            missing, unknown = sorted(wanted - there), sorted(there - wanted)
            raise UpdateRefused(f"{group}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    for name, tensor in update.head.items():
        if _form(tensor) != _form(reference.head[name]):
            raise UpdateRefused(f"{name}: got {_form(tensor)}, wanted {_form(reference.head[name])}")


def _pair_form(factors: Factors) -> str:
    return f"got A {_form(factors.a)}, B {_form(factors.b)}, scale {factors.scale}"


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def save_adapter(model: PeftModel, folder: Path, base_model: str) -> None:
    """Writes PEFT's own format at the ranks and scales of now; ``PeftModel.from_pretrained(base, folder)`` loads it."""
    config = model.peft_config[_ADAPTER]
    config.base_model_name_or_path = base_model
    describe_sizes(config, lora_modules(model), _ADAPTER)
    model.save_pretrained(str(folder))
    (folder / "README.md").write_text(CARD.format(base_model=base_model), encoding="utf-8")
