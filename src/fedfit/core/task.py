"""The contract of a task: the learning problem, apart from the model that learns it and the federation that spreads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A measured value, and its direction."""

    value: float
    higher_is_better: bool = True


Score = Mapping[str, Metric]
"""The metrics of one model on one set, by name (``accuracy``, ``loss``)."""


class Scorer(Protocol):
    """Gathers a model's outputs over a set, batch by batch."""

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Takes in one batch."""

    def score(self) -> Score:
        """The metrics of all batches so far."""


class Task(Protocol):
    """What a model is asked, and how its answer is judged. Model and trainer know no label."""

    @property
    def name(self) -> str:
        """The task's name in a recipe."""

    @property
    def headline(self) -> str:
        """The metric that curves and tables show first, of ``scorer``'s."""

    @property
    def outputs(self) -> int:
        """Numbers that the head gives at a position."""

    def positions(self, lengths: Tensor) -> str | Tensor:
        """The positions of a padded batch that the last layer and the head must compute: ``first`` or ``last`` token of each
        sample, or indices ``(batch, positions)``."""

    def collate(self, samples: Any, rows: np.ndarray, device: torch.device) -> Tensor:
        """The targets of ``samples`` at ``rows``."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, with a gradient; ``output`` is what the head gives at the positions."""

    def scorer(self) -> Scorer:
        """A new scorer."""
