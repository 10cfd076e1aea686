"""A LoRA layer whose forward and backward are single functions over packed weights.

Registered with PEFT as the layer for ``nn.Linear`` (PEFT's own extension point), so names, saving and loading are PEFT's. What
differs from PEFT's layer is the number of passes over the activations: the low-rank product is accumulated into the frozen
one in place, both ways, and ``∂ℓ/∂B`` is formed as ``(uᵀ G)ᵀ``, which the CPU's kernels do four times as fast as ``Gᵀ u``.

With ``W = W0 + s·B·A``, rows ``x``, ``u = x Aᵀ`` and ``G = ∂ℓ/∂y``::

    y = x W0ᵀ + b + s·u Bᵀ        ∂B = s·(uᵀ G)ᵀ    v = s·G B    ∂A = vᵀ x    ∂x = G W0 + v A

The bias may be trained beside the factors: ``∂b`` is the sum of the rows of ``G``.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from fedfit.adapters.mixed_pairs import Beside
from fedfit.models.packed import PackedLinear, bias_gradient, packed_product


class FusedLora(lora.Linear):  # type: ignore[misc]
    """PEFT's LoRA on a linear map; fused where its base is packed and its one adapter has no dropout to draw."""

    beside: Beside | None = None
    """A frozen pair beside the adapter's own, weighed against it token by token; see ``mixed_pairs``."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(…, in)`` → ``(…, out)``."""
        base = self.base_layer
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        if self.beside is not None and name is not None and not self.disable_adapters:
            own = self.lora_B[name](self.lora_A[name](self.lora_dropout[name](x.to(self.lora_A[name].weight.dtype))))
            return self.beside.mixed(base(x), own * self.scaling[name], x)
        if name is None or self.disable_adapters or self.merged or args or kwargs or not self._fuses(base, name, x):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        fused: Tensor = _FusedProduct.apply(x, a, b, base.bias, self.scaling[name], base)  # type: ignore[no-untyped-call]
        return fused

    def _fuses(self, base: nn.Module, name: str, x: Tensor) -> bool:
        drop = self.lora_dropout[name]
        draws = isinstance(drop, nn.Dropout) and drop.training and drop.p > 0
        return isinstance(base, PackedLinear) and base.packs(x) and not draws


class _FusedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, scale: float, base: PackedLinear) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ a.t()
        result = packed_product(rows, base.forward_weight, bias)
        result.addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scale, ctx.base, ctx.shape = scale, base, x.shape
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        outer = gradients[0].reshape(-1, gradients[0].shape[-1])
        wants_x, wants_a, wants_b, wants_bias = ctx.needs_input_grad[:4]
        b_gradient = (inner.t() @ outer).t().mul(ctx.scale) if wants_b else None
        middle = (outer @ b).mul_(ctx.scale)
        a_gradient = middle.t() @ rows if wants_a else None
        x_gradient = None
        if wants_x:
            x_gradient = packed_product(outer, ctx.base.backward_weight, None)
            x_gradient = x_gradient.addmm_(middle, a).view(ctx.shape)
        return x_gradient, a_gradient, b_gradient, bias_gradient(outer) if wants_bias else None, None, None
