"""A frozen pair beside the trained one in a module, and the gate that weighs the two for each token.

    y = W0·x + w_1·s·B·A·x + w_2·s'·B'·A'·x,   (w_1, w_2) = softmax(G·x)

with B', A' frozen and G ``(2, input)`` trained. FedALT (Bian et al., AAAI 2026, arXiv 2503.11880) calls the frozen one
Rest-of-World.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedfit.core.checks import tensor_form
from fedfit.core.update import Factors
from fedfit.errors import UpdateRefused


@dataclass(frozen=True)
class Beside:
    """The frozen pair and the gate of one module, on the model's device."""

    a: Tensor
    b: Tensor
    scale: float
    gate: nn.Parameter

    def mixed(self, base: Tensor, own: Tensor, x: Tensor) -> Tensor:
        """The module's output from those of its frozen map and of its own pair, all ``(…, out)``; ``x`` is ``(…, in)``."""
        shares = nn.functional.linear(x, self.gate.to(x.dtype)).softmax(dim=-1)
        other = nn.functional.linear(nn.functional.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype)) * self.scale
        return base + shares[..., :1] * own + shares[..., 1:] * other


class MixedPairs:
    """What stands beside the pairs of one resident model; nothing until it is loaded."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self.gates: dict[str, nn.Parameter] = {}
        """The gates that can be trained now, by module."""

    def check(self, beside: Mapping[str, Factors], gates: Mapping[str, Tensor]) -> None:
        """Holds pairs and gates to the modules.

        Raises:
            UpdateRefused: when either lacks a module, has an unknown one, or does not fit it.
        """
        names = self._modules.keys() if beside or gates else set()
        if beside.keys() != names or gates.keys() != names:
            raise UpdateRefused(
                "a frozen pair beside the adapter needs a pair and a gate for each adapted module, and no others"
            )
        for name, pair in beside.items():
            module = self._modules[name]
            if not hasattr(module, "beside"):
                raise UpdateRefused(f"{name}: this kind of map takes no second pair; choose another model")
            inputs, outputs = module.in_features, module.out_features
            shapes = (tuple(pair.a.shape), tuple(pair.b.shape), tuple(gates[name].shape))
            wanted = ((len(pair.a), inputs), (outputs, len(pair.a)), (2, inputs))
            if shapes != wanted:
                raise UpdateRefused(f"{name}: got {[tensor_form(t) for t in (pair.a, pair.b, gates[name])]}, wanted {wanted}")

    @torch.no_grad()
    def load(self, beside: Mapping[str, Factors], gates: Mapping[str, Tensor]) -> None:
        """Takes over what has been checked; nothing of the last load is left."""
        self.gates = {}
        for name, module in self._modules.items():
            if name not in beside:
                if getattr(module, "beside", None) is not None:
                    module.beside = None
                continue
            pair, weight = beside[name], module.lora_A[module.active_adapters[0]].weight
            gate = nn.Parameter(gates[name].to(weight.device, weight.dtype, copy=True))
            a, b = (factor.to(weight.device, weight.dtype, copy=True) for factor in (pair.a, pair.b))
            module.beside = Beside(a, b, pair.scale, gate)
            self.gates[name] = gate
