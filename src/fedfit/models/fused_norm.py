"""Element-wise parts of a decoder's layer in fewer passes over memory than autograd takes: its norms and rotations.

On a CPU these are bound by memory: a norm of ``(8·128, 576)`` numbers takes, both ways, half the time of the eleven
operators of transformers' own. Its weight is frozen and gets no gradient. With ``r = (mean x² + ε)^(-½)``, ``g = ∂ℓ/∂y ⊙ w``
and d numbers a row::

    y = x·r ⊙ w        ∂x = r·(g − x·r²·(g·x)/d)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FusedNorm(nn.Module):
    """A frozen norm of transformers, by the same parameter."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self._from_one = type(norm).__name__.startswith("Gemma")  # whose weight is the distance from 1
        self._epsilon = float(norm.eps if self._from_one else norm.variance_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, d)``; other types than float32 are rounded to it, as transformers does."""
        weight = 1 + self.weight if self._from_one else self.weight
        if x.dtype == torch.float32:
            normed: Tensor = _Norm.apply(x, weight, self._epsilon)  # type: ignore[no-untyped-call]
            return normed
        wide = x.float()
        wide = wide * (wide.square().mean(dim=-1, keepdim=True) + self._epsilon).rsqrt()
        scaled: Tensor = wide * weight.float() if self._from_one else weight * wide.to(x.dtype)
        return scaled.to(x.dtype) if self._from_one else scaled


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = x.shape[-1]
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (x * inverse).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        inner = gradients[0] * weight
        along = torch.linalg.vecdot(inner, x)[..., None]
        inner.addcmul_(x, along * inverse.square(), value=-1 / x.shape[-1])
        return inner.mul_(inverse), None, None


def fuse_norms(module: nn.Module) -> None:
    """Replaces every frozen root-mean-square norm below ``module``."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm") and not child.weight.requires_grad:  # type: ignore[union-attr]
                setattr(parent, name, FusedNorm(child))


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``(batch, heads, tokens, size)`` turned by angles ``(1 or batch, tokens, size)``, whose halves are alike: numbers ``i``
    and ``i + size/2`` are a pair."""
    turned: Tensor = _Rotation.apply(heads.to(cosine.dtype), cosine[:, None], sine[:, None])  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradients[0], cosine, sine, -1), None, None


def _turn(x: Tensor, cosine: Tensor, sine: Tensor, sign: int) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cosine
    turned[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-sign)
    turned[..., half:].addcmul_(x[..., :half], sine[..., :half], value=sign)
    return turned
