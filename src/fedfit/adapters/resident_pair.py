"""The LoRA pair of one resident module, whose rank and scale change in place."""

from __future__ import annotations

from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from fedfit.core.update import Factors


class ResidentPair:
    """A and B of one module, with storage for every rank up to the one that they were made with.

    At a lower rank the parameters are contiguous views of the beginning of their storage: forward, backward, optimiser and
    copies work on tensors of that rank and cost accordingly, and no memory is taken or given back. To be made when the model
    is on its device: the storage does not follow a later move.

    ``a`` is ``(rank, input)``, ``b`` is ``(output, rank)``; the objects stay the same, whatever the rank.
    """

    def __init__(self, module: LoraLayer, adapter: str) -> None:
        self._module, self._adapter = module, adapter
        self.a = cast(nn.Parameter, module.lora_A[adapter].weight)
        self.b = cast(nn.Parameter, module.lora_B[adapter].weight)
        self._storage = self.a.data.view(-1), self.b.data.view(-1)

    @property
    def scale(self) -> float:
        """The factor of ``B·A``."""
        return float(self._module.scaling[self._adapter])

    @property
    def factors(self) -> Factors:
        """The pair as it is now; views, not copies."""
        return Factors(self.a.data, self.b.data, self.scale)

    @torch.no_grad()
    def load(self, factors: Factors) -> None:
        """Takes over values, rank and scale of ``factors``, whose form has been checked."""
        rank = factors.a.shape[0]
        if rank != self.a.shape[0]:
            self._set_rank(rank)
        if factors.scale != self.scale:
            self._module.scaling[self._adapter] = factors.scale
        self.a.copy_(factors.a)
        self.b.copy_(factors.b)

    def reserve(self, rank: int) -> None:
        """Takes storage for ranks up to ``rank``; the pair itself stays as it is."""
        a, b = self.a.data, self.b.data
        if rank * a.shape[1] > self._storage[0].numel():
            self._storage = a.new_empty(rank * a.shape[1]), b.new_empty(rank * b.shape[0])
            self._set_rank(len(a))
            self.a.data.copy_(a)
            self.b.data.copy_(b)

    def _set_rank(self, rank: int) -> None:
        shapes = (rank, self.a.shape[1]), (self.b.shape[0], rank)
        for parameter, storage, shape in zip((self.a, self.b), self._storage, shapes, strict=True):
            parameter.grad = None
            # Autograd remembers the shape of a parameter for as long as some graph over it is alive (a kept loss is enough)
            # and would refuse the new one; it forgets when the type changes, so the type changes for a moment.
            parameter.data = torch.empty(0, dtype=torch.float64, device=storage.device)
            parameter.data = storage[: shape[0] * shape[1]].view(shape)
        self._module.r[self._adapter] = rank
        self._module.lora_A[self._adapter].out_features = rank
        self._module.lora_B[self._adapter].in_features = rank
