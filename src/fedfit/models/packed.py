"""Frozen linear maps, laid out once for the CPU's matrix kernels.

A frozen weight never changes, so its re-ordering into the blocks that oneDNN's kernel reads, which an ordinary call repeats
every time, is done once: for the forward map, and transposed for the gradient of the input. The weight itself gets no
gradient, so no third product exists. On an AVX-512 CPU this runs at 219–228 GFLOP/s where ``nn.Linear`` runs at 192–205
(``docs/log.md``). The operators are those that torch's own compiler uses for frozen models on the CPU; where they are
missing, and on other devices and types, the map is an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS_HINT = 1600  # rows of a typical batch; guides the choice of blocks, any number of rows is right


class PackedLinear(nn.Linear):
    """``nn.Linear`` with a frozen float32 weight; parameters and their names stay as they were, and the bias may be trained.

    Who changes the weight afterwards calls ``pack``: the packed copies do not follow by themselves.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.pack()

    def pack(self) -> None:
        """Lays out the weight as it is now."""
        weight = self.weight.detach()
        self.forward_weight = _pack(weight)
        self.backward_weight = _pack(weight.t().contiguous())

    def packs(self, input: Tensor) -> bool:
        """Whether ``input`` is of the type that the packed weight is for."""
        return input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")

    def forward(self, input: Tensor) -> Tensor:
        """``input @ weight.T + bias``, ``(…, in)`` → ``(…, out)``."""
        if not self.packs(input):
            return functional.linear(input, self.weight, self.bias)
        result: Tensor = _PackedProduct.apply(  # type: ignore[no-untyped-call]
            input, self.forward_weight, self.backward_weight, self.bias
        )
        return result


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, transposed: Tensor, bias: Tensor | None) -> Tensor:
        ctx.transposed = transposed
        return packed_product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        (outer,) = gradients
        rows = packed_product(outer, ctx.transposed, None) if ctx.needs_input_grad[0] else None
        return rows, None, None, bias_gradient(outer) if ctx.needs_input_grad[3] else None


def bias_gradient(outer: Tensor) -> Tensor:
    """The gradient of a bias that was added to every row: the sum of the rows of ``outer``, ``(…, out)``."""
    return outer.reshape(-1, outer.shape[-1]).sum(dim=0)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
    return packed


def packed_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows @ weight.T + bias`` for a packed ``weight``."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), weight, bias, "none", [], "")
    return product


def can_pack(device: torch.device) -> bool:
    """Whether torch has the operators."""
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and device.type == "cpu" and all(hasattr(torch.ops.mkldnn, name) for name in operators)


def pack_frozen(module: nn.Module) -> None:
    """Replaces every frozen float32 ``nn.Linear`` below ``module``, those inside PEFT's layers too."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and not child.weight.requires_grad and child.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(child))
