"""A delta merged into the frozen weights of the adapted modules, ``W0 + ΔW``: set and taken back in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedfit.errors import UpdateRefused
from fedfit.models.packed import PackedLinear


class MergedWeights:
    """The frozen weights of the adapted modules of one resident model. W0 is copied when a module first leaves it."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self._original: dict[str, Tensor] = {}
        self._merged: dict[str, Tensor] = {}

    @property
    def delta(self) -> Mapping[str, Tensor]:
        """What is merged now, by module."""
        return self._merged

    @torch.no_grad()
    def load(self, delta: Mapping[str, Tensor]) -> None:
        """The weights become ``W0 + delta``, ``(output, input)`` by module; of modules that are not named, W0.

        Raises:
            UpdateRefused: for an unknown module or another shape; the weights are then as they were.
        """
        for name, moved in delta.items():
            if name not in self._modules or moved.shape != self._weight(name).shape:
                raise UpdateRefused(f"{name}: nothing of shape {tuple(moved.shape)} can be merged there")
        for name in self._merged.keys() - delta.keys():
            self._set(name, self._original[name])
            del self._merged[name]
        for name, moved in delta.items():
            there = self._merged.get(name)
            if there is not moved and (there is None or not torch.equal(there, moved)):
                original = self._original.setdefault(name, self._weight(name).detach().clone())
                self._set(name, original + moved.to(original.device))
                self._merged[name] = moved

    def _linear(self, name: str) -> nn.Linear:
        """The frozen map inside an adapted module, as it is now: a map may be packed after the adapter was made."""
        return cast(nn.Linear, self._modules[name].get_base_layer())

    def _weight(self, name: str) -> Tensor:
        """Its weight as ``(output, input)``, a view: GPT-2's ``Conv1D`` has it the other way round."""
        linear = self._linear(name)
        return linear.weight.t() if isinstance(linear, Conv1D) else linear.weight

    def _set(self, name: str, weight: Tensor) -> None:
        linear = self._linear(name)
        self._weight(name).copy_(weight)
        if isinstance(linear, PackedLinear):
            linear.pack()
