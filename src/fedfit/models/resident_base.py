"""What has been merged into the frozen weights of the adapted modules: ``W0 + ΔW``, set and taken back in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from fedfit.errors import UpdateRefused
from fedfit.models.adapters import lora_modules
from fedfit.models.packed import PackedLinear


class ResidentBase:
    """The frozen weights of the adapted modules of one resident model. W0 is copied when a module first leaves it."""

    def __init__(self, model: PeftModel) -> None:
        self._linears = {
            name: cast(nn.Linear, cast(Any, module).get_base_layer()) for name, module in lora_modules(model).items()
        }
        self._original: dict[str, Tensor] = {}
        self._merged: dict[str, Tensor] = {}

    @torch.no_grad()
    def load(self, base: Mapping[str, Tensor]) -> None:
        """The weights become ``W0 + base``, ``(output, input)`` by module; of modules that are not named, W0.

        Raises:
            UpdateRefused: for an unknown module or another shape; the weights are then as they were.
        """
        for name, moved in base.items():
            if name not in self._linears or moved.shape != self._linears[name].weight.shape:
                raise UpdateRefused(f"{name}: nothing of shape {tuple(moved.shape)} can be merged there")
        for name in self._merged.keys() - base.keys():
            self._set(name, self._original[name])
            del self._merged[name]
        for name, moved in base.items():
            there = self._merged.get(name)
            if there is not moved and (there is None or not torch.equal(there, moved)):
                original = self._original.setdefault(name, self._linears[name].weight.detach().clone())
                self._set(name, original + moved.to(original.device))
                self._merged[name] = moved

    def _set(self, name: str, weight: Tensor) -> None:
        linear = self._linears[name]
        linear.weight.copy_(weight)
        if isinstance(linear, PackedLinear):
            linear.pack()
