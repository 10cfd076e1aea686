"""Digests of a model's weights, and the values of its configuration that its output depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

_NESTED = ("rope_parameters", "layer_types")  # of decoders; an encoder has neither
_UNRELATED = ("num_labels", "_name_or_path", "transformers_version", "dtype", "problem_type")


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """32 hex digits over every name and bit of ``tensors``, whatever device they are on."""
    made = xxhash.xxh3_128()
    for name, tensor in tensors:
        made.update(name.encode())
        made.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def frozen_digest(model: nn.Module) -> str:
    """The digest of every parameter that is not trained, and of every buffer."""
    frozen = ((name, tensor) for name, tensor in model.named_parameters() if not tensor.requires_grad)
    return digest([*frozen, *model.named_buffers()])


def config_facts(config: Any) -> dict[str, Any]:
    """The plain values of a model's configuration, without those that change nothing below the head."""
    values = config.to_dict()
    return {
        name: values[name]
        for name in sorted(values)
        if (isinstance(values[name], int | float | str | bool) or name in _NESTED) and name not in _UNRELATED
    }
