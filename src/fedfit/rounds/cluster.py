"""A device that is a cluster: several processes train each of its batches together.

Every process runs the whole federation, from the same recipe and with the same draws, so all hold the same adapter at every
step. Of each batch a process computes the loss of its own part; gradients are summed over the processes before anything
acts on them. The weight of a part is its share of what the task's loss is a mean over, so that the sum is the gradient of
the whole batch.

Started by ``accelerate launch`` or ``torchrun``; accelerate joins the processes, by gloo on a CPU and by NCCL on GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn


class Cluster:
    """This process, among those of the device."""

    @cached_property
    def _accelerator(self) -> Any:
        from accelerate import Accelerator

        return Accelerator(cpu=not torch.cuda.is_available())

    @property
    def size(self) -> int:
        """The number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this one writes the run folder."""
        return bool(self._accelerator.is_main_process)

    def wait(self) -> None:
        """Goes on when all processes are here."""
        self._accelerator.wait_for_everyone()

    def part(self, batch: np.ndarray) -> np.ndarray:
        """This process's rows of ``batch``: every ``size``-th, so that parts have texts of like lengths. May be empty."""
        return batch[self._accelerator.process_index :: self.size]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of ``value`` over the processes."""
        found: torch.Tensor = self._accelerator.reduce(value, reduction="sum")
        return found

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Puts the sum over the processes in the place of each gradient; a part without rows has gradients of zero."""
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in parameters])
        for parameter, gradient in zip(parameters, torch.split(self.sum(flat), [p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)


def this_cluster() -> Cluster | None:
    """The cluster that this process belongs to; ``None`` for a process by itself."""
    return Cluster() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
