"""LoRA: injected by PEFT, read and written as an ``Update``, and saved in PEFT's own format.

The rank is not fixed: a loaded update brings its own, from 1 to that of the built model.

Names are those of the base model's modules (``bert.encoder.layer.3.attention.self.query``) and head parameters
(``classifier.weight``), not PEFT's wrappers: what travels does not depend on how PEFT names things.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from fedfit.adapters.fused_lora import FusedLora
from fedfit.adapters.merged_weights import MergedWeights
from fedfit.adapters.mixed_pairs import MixedPairs
from fedfit.adapters.peft_files import describe_sizes, labelled_config
from fedfit.adapters.resident_pair import ResidentPair
from fedfit.core.checks import tensor_form
from fedfit.core.update import (
    GATE,
    HEAD,
    HOME_A,
    HOME_B,
    LORA_A,
    LORA_B,
    PAIRS,
    Fact,
    Job,
    Update,
    named_tensors,
    update_of,
)
from fedfit.errors import UpdateRefused
from fedfit.models.adapter import AdapterKind
from fedfit.models.cost import factor_parameters
from fedfit.models.family import Family
from fedfit.models.targets import resolve_all
from fedfit.settings import AdapterSettings

_ADAPTER = "default"  # PEFT's name of the one adapter that a model here has


def inject(model: nn.Module, family: Family, settings: AdapterSettings, layers: tuple[int, ...], seed: int) -> PeftModel:
    """Wraps ``model`` with LoRA on ``settings.targets`` of ``layers``; A is drawn from ``seed``, B is zero.

    Rank and scale are those of ``settings.size(settings.rank)``; with `constant` too PEFT's α/r is that scale.
    A classifier's head is always saved with the adapter, also when frozen: a fresh head cannot be had from anywhere else. That
    of a language model is the base's own.
    """
    ends = [family.targets[target] for target in resolve_all(settings.targets, family.targets)]
    heads = list(family.heads_of(model))
    pattern = family.layers.rpartition(".")[2]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if heads else TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.scaling == "alpha/sqrt(r)",
        lora_dropout=settings.dropout,
        target_modules=[f"{pattern}.{layer}.{end}" for layer in layers for end in ends],
        layers_to_transform=list(layers),
        layers_pattern=pattern,
        modules_to_save=heads or None,
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
    for module_name in family.heads_of(base):
        wrapper: Any = base.get_submodule(module_name)
        for name, parameter in wrapper.modules_to_save[_ADAPTER].named_parameters():
            found[f"{module_name}.{name}"] = parameter
    return found


class LoraAdapter:
    """Pairs and head of the resident model, copied in and out in place.

    ``rank`` is the resident rank, the highest that can be loaded; ``head`` is empty when the head is frozen.
    """

    def __init__(self, model: PeftModel, family: Family) -> None:
        self._modules = lora_modules(model)
        self._pairs = {name: ResidentPair(module, _ADAPTER) for name, module in self._modules.items()}
        self._home: dict[str, ResidentPair] = {}
        self._layers = f"{family.layers}."
        self._merged, self._mixed = MergedWeights(self._modules), MixedPairs(self._modules)
        self.rank = max(pair.a.shape[0] for pair in self._pairs.values())
        head = head_parameters(model, family)
        self.head = {name: parameter for name, parameter in head.items() if parameter.requires_grad}

    @property
    def factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter, float]]:
        """Parameters ``(A, B)`` and scale by module, at the rank that was loaded last; without those at home."""
        return {name: (pair.a, pair.b, pair.scale) for name, pair in self._pairs.items()}

    def parameters(self) -> list[nn.Parameter]:
        """Every trainable parameter, in a fixed order."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable parameter by its name in ``core.update.named_tensors``, in a fixed order."""
        pairs = {
            f"{group}.{name}": parameter
            for (a, b), some in (((LORA_A, LORA_B), self._pairs), ((HOME_A, HOME_B), self._home))
            for name, pair in some.items()
            for group, parameter in ((a, pair.a), (b, pair.b))
        }
        head = {f"{HEAD}.{name}": parameter for name, parameter in self.head.items()}
        return pairs | head | {f"{GATE}.{name}": parameter for name, parameter in self._mixed.gates.items()}

    @property
    def groups(self) -> frozenset[str]:
        """The groups of tensors that it trains."""
        return frozenset(name.partition(".")[0] for name in self.named_parameters())

    def reserve(self, rank: int) -> None:
        """Lets ranks up to ``rank`` be loaded; an optimiser made before is of no use after it."""
        for pair in self._pairs.values():
            pair.reserve(rank)
        self.rank = max(self.rank, rank)

    def keep_at_home(self, layers: Collection[int]) -> None:
        """See ``models.adapter.Adapter``."""
        every = {**self._pairs, **self._home}
        self._home = {name: every[name] for name in self._modules if self._layer(name) in layers}
        self._pairs = {name: every[name] for name in self._modules if name not in self._home}

    def look_at(self, samples: Callable[[], torch.Tensor], positions: torch.Tensor | None = None) -> None:
        """See ``models.adapter.Adapter``."""
        self._mixed.look_at(samples, positions)

    def _layer(self, module: str) -> int:
        return int(module.partition(self._layers)[2].partition(".")[0])

    def train_only(self, groups: frozenset[str]) -> list[nn.Parameter]:
        """Lets gradients reach ``groups`` alone; returns their parameters, in a fixed order."""
        named = self.named_parameters()
        for name, parameter in named.items():
            parameter.requires_grad_(name.partition(".")[0] in groups)
        return [parameter for parameter in named.values() if parameter.requires_grad]

    def pairs(self) -> Sequence[tuple[nn.Parameter, nn.Parameter]]:
        """A and B of every module, at the rank that was loaded last; without those at home."""
        return [(pair.a, pair.b) for pair in self._pairs.values()]

    @torch.no_grad()
    def load(self, job: Job) -> None:
        """Copies the job's update into the model, which takes over its ranks and scales; its delta is merged into ``W0``, and
        its frozen pairs stand beside the adapter's own.

        Modules may differ in rank, and each scale may be any positive number. Gradients of a pair whose rank changes are
        dropped; an optimiser made before such a change is of no use after it.

        Raises:
            UpdateRefused: when a tensor is missing, unknown, or of another shape or type, A and B differ in rank, or the
                rank is above the resident one. The model is then as it was.
        """
        update, gates = job.update.without({GATE}), job.update.groups.get(GATE, {})
        check_loadable(update, self._view(), self.rank)
        self._mixed.check(job.beside, gates, job.shares)
        self._merged.load(job.merged_delta)
        self._mixed.load(job.beside, gates, job.shares)
        for name, pair in self._pairs.items():
            pair.load(update.factors[name])
        for name, pair in self._home.items():
            pair.a.copy_(update.groups[HOME_A][name])
            pair.b.copy_(update.groups[HOME_B][name])
        for name, parameter in self.head.items():
            parameter.copy_(update.groups[HEAD][name])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While it lasts, the model is the frozen base: without factors and without a merged delta. A trained head stays."""
        delta = dict(self._merged.delta)
        self._merged.load({})
        self._disable(True)
        try:
            yield
        finally:
            self._disable(False)
            self._merged.load(delta)

    def _disable(self, disabled: bool) -> None:
        for module in self._modules.values():
            module._disable_adapters = disabled  # PEFT's enable_adapters would also change what is trained

    def snapshot(self, weight: float = 1.0, facts: Mapping[str, Fact] | None = None) -> Update:
        """A copy of the trainable tensors on the CPU."""
        view = self._view()
        if self._mixed.gates:
            view = view.with_groups({GATE: {name: gate.data for name, gate in self._mixed.gates.items()}})
        groups = {group: {name: _copy(t) for name, t in tensors.items()} for group, tensors in view.groups.items()}
        return Update(groups, view.scales, weight, facts or {})

    def _view(self) -> Update:
        rest = {
            HEAD: {name: parameter.data for name, parameter in self.head.items()},
            HOME_A: {name: pair.a.data for name, pair in self._home.items()},
            HOME_B: {name: pair.b.data for name, pair in self._home.items()},
        }
        pairs = {name: pair.factors for name, pair in self._pairs.items()}
        return update_of(pairs, {group: tensors for group, tensors in rest.items() if tensors})


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def check_loadable(update: Update, resident: Update, max_rank: int) -> None:
    """Holds ``update`` to the names, types and shapes of ``resident``, with ranks from 1 to ``max_rank`` and positive scales.

    Raises:
        UpdateRefused: naming the first tensor that cannot be loaded.
    """
    wanted, found = named_tensors(resident), named_tensors(update)
    if wanted.keys() != found.keys():
        missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise UpdateRefused(f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
    for name, tensor in found.items():
        if name.partition(".")[0] not in PAIRS and tensor_form(tensor) != tensor_form(wanted[name]):
            raise UpdateRefused(f"{name}: got {tensor_form(tensor)}, wanted {tensor_form(wanted[name])}")
    for name, factors in update.factors.items():
        known = resident.factors[name]
        inputs, outputs, kind = known.a.shape[1], known.b.shape[0], known.a.dtype
        rank = factors.a.shape[0] if factors.a.dim() else 0
        shapes_fit = (factors.a.shape, factors.b.shape) == ((rank, inputs), (outputs, rank)) and 1 <= rank <= max_rank
        if not shapes_fit or not factors.a.dtype == factors.b.dtype == kind:
            raise UpdateRefused(
                f"{name}: got A {tensor_form(factors.a)}, B {tensor_form(factors.b)}; wanted A (rank, {inputs}) and "
                f"B ({outputs}, rank) of {kind} with one rank from 1 to {max_rank}"
            )
        if not (math.isfinite(factors.scale) and factors.scale > 0):
            raise UpdateRefused(f"{name}: the scale {factors.scale} is not a positive number")


def save_adapter(model: PeftModel, folder: Path, base_model: str, labels: Sequence[str] = ()) -> None:
    """Writes PEFT's own format at the ranks and scales of now; ``PeftModel.from_pretrained(base, folder)`` loads it.

    Args:
        base_model: the name that the adapter gives its base.
        labels: names of the classes, for the base's configuration with them beside the adapter; none, no such file.
    """
    config = model.peft_config[_ADAPTER]
    config.base_model_name_or_path = base_model
    describe_sizes(config, lora_modules(model), _ADAPTER)
    # Embeddings are never trained here; left to decide by itself, PEFT asks the hub about the base.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    if labels:
        labelled_config(model.get_base_model(), labels).save_pretrained(str(folder))


KIND = AdapterKind(pairs=True, inject=inject, resident=LoraAdapter, save=save_adapter, parameters=factor_parameters)
