"""A frozen pair beside the trained one in a module, and what weighs the two.

    y = W0·x + w_1·s·B·A·x + w_2·s'·B'·A'·x

with B', A' frozen. The shares are two numbers; or each sample's, by its likeness to others (FedDPA, Yang et al., NeurIPS
2024, arXiv 2403.19211); or each token's, from a gate G ``(2, input)`` that is trained, ``(w_1, w_2) = softmax(G·x)`` (FedALT,
Bian et al., AAAI 2026, arXiv 2503.11880, which calls the frozen pair Rest-of-World).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedfit.core.checks import tensor_form
from fedfit.core.update import Factors, Likeness
from fedfit.errors import UpdateRefused

Share = Tensor | float


@dataclass(frozen=True)
class Gate:
    """Shares by token."""

    weight: nn.Parameter

    def __call__(self, x: Tensor) -> tuple[Share, Share]:
        """Shares ``(…, 1)`` of own and frozen pair for inputs ``(…, in)``."""
        shares = nn.functional.linear(x, self.weight.to(x.dtype)).softmax(dim=-1)
        return shares[..., :1], shares[..., 1:]


@dataclass(frozen=True)
class Fixed:
    """The same shares for every token."""

    own: float
    other: float

    def __call__(self, x: Tensor) -> tuple[Share, Share]:
        """Both numbers."""
        return self.own, self.other


@dataclass
class BySample:
    """Shares by sample of the batch that passes now."""

    likeness: Likeness
    _rows: Tensor = field(default_factory=lambda: torch.zeros(0))
    _flat: Tensor = field(default_factory=lambda: torch.zeros(0))

    def look_at(self, samples: Tensor, positions: Tensor | None) -> None:
        """Takes the samples of the next batch, ``(batch, hidden)``.

        Args:
            positions: ``(batch, positions)`` that a decoder's last layer goes on with in one row of tokens, without those
                that are -1.
        """
        like = nn.functional.cosine_similarity(samples[:, None], self.likeness.references.to(samples)[None], dim=-1)
        self._rows = (self.likeness.most * like.mean(dim=1)).clamp(min=0)
        read = torch.ones_like(self._rows, dtype=torch.long) if positions is None else (positions >= 0).sum(dim=1)
        self._flat = self._rows.repeat_interleave(read)

    def __call__(self, x: Tensor) -> tuple[Share, Share]:
        """Shares for inputs ``(batch, tokens, in)``, or ``(n, in)`` of the last layer's positions."""
        own = (self._rows[:, None, None] if x.dim() == 3 else self._flat[:, None]).to(x.dtype)
        return own, 1 - own


@dataclass(frozen=True)
class Beside:
    """The frozen pair of one module, on the model's device, and what weighs it against the module's own."""

    a: Tensor
    b: Tensor
    scale: float
    shares: Callable[[Tensor], tuple[Share, Share]]

    def mixed(self, base: Tensor, own: Tensor, x: Tensor) -> Tensor:
        """The module's output from those of its frozen map and of its own pair, all ``(…, out)``; ``x`` is ``(…, in)``."""
        first, second = self.shares(x)
        other = nn.functional.linear(nn.functional.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype)) * self.scale
        return base + first * own + second * other


class MixedPairs:
    """What stands beside the pairs of one resident model; nothing until it is loaded."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._modules = modules
        self._by_sample: BySample | None = None
        self.gates: dict[str, nn.Parameter] = {}
        """The gates that can be trained now, by module."""

    def check(
        self, beside: Mapping[str, Factors], gates: Mapping[str, Tensor], shares: tuple[float, float] | Likeness | None
    ) -> None:
        """Holds pairs and gates to the modules.

        Raises:
            UpdateRefused: when either lacks a module, has an unknown one, or does not fit it.
        """
        names = self._modules.keys() if beside or gates else set()
        if beside.keys() != names or gates.keys() != (names if shares is None else set()):
            raise UpdateRefused(
                "a frozen pair beside the adapter needs a pair for each adapted module, and a gate or shares, and no others"
            )
        for name, pair in beside.items():
            module = self._modules[name]
            if not hasattr(module, "beside"):
                raise UpdateRefused(f"{name}: this kind of map takes no second pair; choose another model")
            inputs, outputs = module.in_features, module.out_features
            found = [pair.a, pair.b, *([gates[name]] if shares is None else [])]
            wanted = [(len(pair.a), inputs), (outputs, len(pair.a)), *([(2, inputs)] if shares is None else [])]
            if [tuple(tensor.shape) for tensor in found] != wanted:
                raise UpdateRefused(f"{name}: got {[tensor_form(tensor) for tensor in found]}, wanted {wanted}")

    @torch.no_grad()
    def load(
        self, beside: Mapping[str, Factors], gates: Mapping[str, Tensor], shares: tuple[float, float] | Likeness | None
    ) -> None:
        """Takes over what has been checked; nothing of the last load is left."""
        self.gates = {}
        self._by_sample = BySample(shares) if isinstance(shares, Likeness) else None
        common = Fixed(*shares) if isinstance(shares, tuple) else self._by_sample
        for name, module in self._modules.items():
            if name not in beside:
                if getattr(module, "beside", None) is not None:
                    module.beside = None
                continue
            pair, weight = beside[name], module.lora_A[module.active_adapters[0]].weight
            a, b = (factor.to(weight.device, weight.dtype, copy=True) for factor in (pair.a, pair.b))
            if common is None:
                self.gates[name] = nn.Parameter(gates[name].to(weight.device, weight.dtype, copy=True))
            module.beside = Beside(a, b, pair.scale, common or Gate(self.gates[name]))

    @torch.no_grad()
    def look_at(self, samples: Callable[[], Tensor], positions: Tensor | None = None) -> None:
        """See ``models.adapter.Adapter``."""
        if self._by_sample is not None:
            self._by_sample.look_at(samples(), positions)
