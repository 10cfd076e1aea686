"""What a job does to the gradients of a device's training: a mask, a penalty, a correction."""

from __future__ import annotations

import torch
from torch import nn

from fedfit.core.update import Job
from fedfit.models.adapter import Adapter


class GradientHooks:
    """Acts on the gradients of the resident adapter. ``rate_sum`` is the sum of the learning rates of the steps so far."""

    def __init__(self, job: Job, adapter: Adapter) -> None:
        named = adapter.named_parameters()
        self._masks = [(named[name], mask.to(named[name].device)) for name, mask in job.mask.items()]
        self._corrections = [(named[name], added.to(named[name].device)) for name, added in job.correction.items()]
        self._penalty = job.penalty
        self._pairs = adapter.pairs() if job.penalty is not None else []
        self.rate_sum = 0.0

    @property
    def acts(self) -> bool:
        """Whether it does anything at all."""
        return bool(self._masks or self._corrections or self._pairs)

    @torch.no_grad()
    def before_clipping(self) -> None:
        """Makes the gradient that of the device's objective: the penalty's is added, masked entries are zero."""
        if self._penalty is not None:
            for a, b in self._pairs:
                add_penalty(a, b, self._penalty.first, self._penalty.strength)
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_clipping(self) -> None:
        """Adds the corrections. Control variates are no part of the objective, so they are not clipped."""
        for parameter, added in self._corrections:
            if parameter.grad is not None:
                parameter.grad.add_(added)


def add_penalty(a: nn.Parameter, b: nn.Parameter, first: int, strength: float) -> None:
    """Adds the gradient of ``strength · ‖B[:, first:]‖ · ‖A[first:]‖``: each factor's direction times the other's norm."""
    tail_a, tail_b = a[first:], b[:, first:]
    norm_a, norm_b = tail_a.norm(), tail_b.norm()
    for parameter, tail, norm, other, where in (
        (a, tail_a, norm_a, norm_b, (slice(first, None),)),
        (b, tail_b, norm_b, norm_a, (slice(None), slice(first, None))),
    ):
        if parameter.grad is not None and norm > 0:
            parameter.grad[where] += tail * (strength * other / norm)
