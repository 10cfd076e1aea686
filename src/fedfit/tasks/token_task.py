"""What all tasks of a language model share: they read the token before each token of every continuation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedfit.data.tokenize import Samples
from fedfit.tasks.token_targets import TokenTargets, target_counts, token_targets


class TokenTask:
    """The part of ``core.task.Task`` that follows from a sample's ids and segments alone."""

    @property
    def outputs(self) -> None:
        """The head is that of a language model."""
        return None

    def collate(self, samples: Samples, rows: np.ndarray, device: torch.device) -> TokenTargets:
        """The tokens of the continuations, and where each is read."""
        return token_targets(samples, rows, device)

    def positions(self, targets: TokenTargets) -> Tensor:
        """The token before each target."""
        return targets.index

    def reads(self, samples: Samples) -> np.ndarray:
        """Targets of each sample."""
        return target_counts(samples)

    def examiner(self) -> None:
        """Metrics and answers say all."""
        return None
