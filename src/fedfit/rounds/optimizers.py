"""A device's optimiser, its learning rate, and FedProx's pull."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from fedfit.core.update import Update, named_tensors
from fedfit.settings import TrainingSettings


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """A fresh optimiser; one fused kernel updates all tensors."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """The parameters that ``optimizer`` steps, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_factor(progress: float, settings: TrainingSettings) -> float:
    """The share of the peak learning rate at ``progress`` ∈ [0, 1) of the whole run: warm-up, then the decay."""
    if progress < settings.warmup:
        return progress / settings.warmup
    rest = (progress - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    if settings.schedule == "linear":
        return 1 - rest
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1.0


def pulled_to(
    anchor: Update, named: Mapping[str, torch.nn.Parameter], trained: Sequence[torch.nn.Parameter]
) -> list[torch.Tensor]:
    """The tensors of ``anchor`` in the order of ``trained``, whose names are in ``named``."""
    tensors, names = named_tensors(anchor), {id(parameter): name for name, parameter in named.items()}
    return [tensors[names[id(parameter)]].to(parameter.device) for parameter in trained]


@torch.no_grad()
def add_pull(parameters: Sequence[torch.nn.Parameter], anchors: Sequence[torch.Tensor], strength: float) -> None:
    """Adds the gradient of FedProx's term: ``μ/2·‖θ − θ_received‖²`` pulls by ``μ·(θ − θ_received)``.

    Before clipping: the gradient of the whole objective is clipped, as in every other use of the optimiser.
    A parameter without a gradient is not stepped, so it has not left its anchor.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.

    Args:
        anchors: θ_received, in the order of ``parameters``.
        strength: μ.
    """
    for parameter, anchor in zip(parameters, anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - anchor, alpha=strength)
