"""What a chain's packet says of the tensors in it: names, shapes and scales, or that they are those of the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xxhash

from fedfit.core.update import PAIRS, Update, named_tensors
from fedfit.errors import UpdateRefused

_MOST_AXES, _MOST_NUMBERS, _NAME_LETTERS = 8, 2**40, 80

Forms = Mapping[str, Sequence[int]]
"""Name → shape, in the order of the names."""


def describe(forms: Forms, update: Update, rest: Update, reference: Update | None) -> tuple[str, Mapping[str, float]]:
    """What is said of ``forms``, and the scales that travel.

    Where the reference has the same tensors in the groups of ``forms``, and the same scales, these groups and a digest are
    said, and no scales. ``rest`` is what travels beside them.
    """
    groups = sorted({name.partition(".")[0] for name in forms})
    same = reference is not None and _of(reference, groups) == forms and dict(reference.scales) == dict(update.scales)
    if forms and same and not rest.present & PAIRS:
        return json.dumps([groups, digest_of(forms)], separators=(",", ":")), {}
    return json.dumps(forms, separators=(",", ":")), update.scales


def described(said: object, scales: Mapping[str, float], reference: Update | None) -> tuple[Forms, Mapping[str, float]]:
    """The inverse of ``describe``, with the ``scales`` that travelled. A tensor is held to the reference's before it is made.

    Raises:
        UpdateRefused: for what is no description, tensors that the reference lacks, or that are larger than its.
    """
    try:
        found: Any = json.loads(said) if isinstance(said, str) else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 2 and reference is not None:
        groups, digest = found
        forms = _of(reference, groups) if isinstance(groups, list) else {}
        if not forms or digest != digest_of(forms):
            raise UpdateRefused("the packet says that it has the tensors of what was sent, and they are others")
        return forms, reference.scales
    if not isinstance(found, dict) or not all(map(_is_shape, found.values())):
        raise UpdateRefused("the packet is not a whole update: it does not say which tensors were coded")
    if reference is not None:
        there = named_tensors(reference)
        strange = [name for name, shape in found.items() if name not in there or math.prod(shape) > there[name].numel()]
        if strange:
            few = [name[:_NAME_LETTERS] for name in strange[:2]]
            raise UpdateRefused(f"the packet holds {few} in another size than what is due, or unknown")
    return found, scales


def _of(update: Update, groups: Sequence[object]) -> dict[str, list[int]]:
    """The forms of the float32 tensors in ``groups`` of ``update``."""
    named = sorted(named_tensors(update).items())
    return {
        name: list(tensor.shape) for name, tensor in named if name.partition(".")[0] in groups and tensor.dtype == torch.float32
    }


def digest_of(forms: Forms) -> str:
    """Names and shapes in 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(json.dumps({name: list(shape) for name, shape in forms.items()}).encode())


def _is_shape(shape: object) -> bool:
    """Of few axes, whose product torch can count even where one of them is 0."""
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(type(size) is int and size >= 0 for size in shape):
        return False
    return math.prod(max(1, min(size, _MOST_NUMBERS)) for size in shape) < _MOST_NUMBERS
