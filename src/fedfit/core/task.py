"""The contract of a task: the learning problem, apart from the model that learns it and the federation that spreads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


Show = Callable[[int], Mapping[str, str]]
"""The texts of the sample at a row, by field (``text``, ``pair``), short enough for a report."""


class Examiner(Protocol):
    """Looks closer than a scorer: gathers what a report shows of one model on one set, batch by batch."""

    def add(self, output: Tensor, targets: Tensor, rows: np.ndarray) -> None:
        """Takes in the batch of the samples at ``rows``."""

    def details(self, show: Show) -> Mapping[str, Any]:
        """Plain values for ``evaluation.json``, of all batches so far."""


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

    def examiner(self) -> Examiner:
        """A new examiner."""

    def describe(self) -> Mapping[str, Any]:
        """Plain values for ``task.json``: ``metrics``, ``{name: {"higher_is_better": …}}``, and ``labels`` where classes have
        names."""
