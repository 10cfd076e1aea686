"""What must hold of an update before it counts: finite numbers, the names, shapes and types that are due, and typed facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedfit.core.update import Update, named_tensors
from fedfit.errors import UpdateRefused


def check_finite(update: Update) -> None:
    """Holds every tensor of ``update``, its weight and its facts to finite numbers.

    Raises:
        UpdateRefused: naming the first value that is not finite, or a weight that is not positive.
    """
    for name, tensor in named_tensors(update).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UpdateRefused(f"{name} is not finite; a lower training.learning_rate may help")
    if not 0 < update.weight < math.inf:
        raise UpdateRefused(f"the weight {update.weight} is not a positive number of samples")
    for name, value in update.facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UpdateRefused(f"the fact {name} is {value}")


def check_weight(update: Update, registered: int) -> None:
    """Holds a device to the number of samples that it registered.

    Raises:
        UpdateRefused: for a larger weight: it would take over the mean.
    """
    if update.weight > registered:
        raise UpdateRefused(f"the update claims {update.weight:g} samples; the device registered {registered}")


def check_form(update: Update, allowed: Sequence[Update]) -> None:
    """Holds ``update`` to one of the ``allowed`` forms: groups, names, shapes, types and scales; strict on both sides.

    Raises:
        UpdateRefused: naming the first tensor that is missing, unknown or of another shape or type than in the first form.
    """
    found = form_of(update)
    if not any(found == form_of(form) for form in allowed):
        raise UpdateRefused(_difference(found, form_of(allowed[0])))


def form_of(update: Update) -> dict[str, str]:
    """Shape and type of every tensor, and the scale of every pair, as text by name."""
    tensors = {name: tensor_form(tensor) for name, tensor in named_tensors(update).items()}
    return tensors | {f"scale of {name}": repr(scale) for name, scale in update.scales.items()}


def tensor_form(tensor: Tensor) -> str:
    """Shape and type as text: ``'(8, 384) float32'``."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        return f"missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
    name = next(name for name in wanted if found[name] != wanted[name])
    return f"{name}: got {found[name]}, wanted {wanted[name]}"


def int_fact(update: Update, name: str) -> int:
    """The fact ``name`` of ``update``, a whole number.

    Raises:
        UpdateRefused: when it is absent, or of another type.
    """
    value = update.facts.get(name)
    if type(value) is not int:
        raise UpdateRefused(f"the fact {name} is {value!r}, not a whole number")
    return value
