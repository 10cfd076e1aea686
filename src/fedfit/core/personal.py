"""The contract of a personalisation method: what a device does for a model of its own, beside the federation's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fedfit.core.update import Fact, Job, Memory, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pull:
    """``strength/2 · ‖θ − anchor‖²`` as a term of a device's loss, over the trained tensors."""

    anchor: Update
    strength: float


class Local(Protocol):
    """What a method may do on a device: train and measure on the device's own samples."""

    @property
    def device(self) -> int:
        """The device's number."""

    @property
    def round(self) -> int:
        """The round that goes on."""

    @property
    def few_shot(self) -> int:
        """Samples in the device's few-shot part, which nothing trains on; 0 where it has none."""

    @property
    def trains(self) -> frozenset[str] | None:
        """The groups that the rule has devices train in this round; all when ``None``."""

    def train(
        self,
        job: Job,
        part: str = "",
        groups: frozenset[str] | None = None,
        steps: int | None = None,
        pull: Pull | None = None,
    ) -> Update:
        """Trains ``job`` on the device's training part, as the recipe has it.

        Args:
            part: names this training among those of the round; batches and dropout are drawn anew for each name.
            groups: trained alone; by default those that the round trains.
            steps: in place of the recipe's.
            pull: in place of ``training.proximal``.

        Raises:
            UpdateRefused: when the loss is not finite.
        """

    def references(self, count: int) -> Tensor:
        """Mean hidden states at the cut, ``(samples, hidden)``, of ``count`` samples of the training part, or of all if it has
        fewer; the same ones in every round.
        """

    def loss(self, job: Job) -> float:
        """The mean loss of ``job`` over the few-shot part; NaN where the model's output is not finite."""


@dataclass(frozen=True)
class Models:
    """The models of one device by name (``personal``, ``shared``, ``fused``), to be measured on its own test part.

    Args:
        jobs: what the resident model is loaded with, for each.
        facts: what a record says of how they came about.
    """

    jobs: Mapping[str, Job]
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def best(self) -> Job:
        """The one that the device uses: the last, as methods list them."""
        return list(self.jobs.values())[-1]


class Personal(Protocol):
    """A method, ready to run. Its functions are pure but for what they ask of ``local``."""

    @property
    def private(self) -> frozenset[str]:
        """The groups that never leave a device."""

    @property
    def few_shot(self) -> bool:
        """Whether devices set a few-shot part aside."""

    @property
    def home_layers(self) -> int:
        """The topmost adapted layers whose pairs are no part of the shared adapter."""

    @property
    def rank_factor(self) -> int:
        """The rank of the largest of its models, in ranks of the adapter."""

    def train(self, local: Local, job: Job, own: Memory | None) -> tuple[Update, Memory | None]:
        """One round on a device.

        Args:
            job: that of the shared adapter, as the rule has it.
            own: what the method kept in the device's last round; ``None`` before its first.

        Returns:
            The update that the rule goes on with, and what is kept.
        """

    def models(self, local: Local, job: Job, own: Memory | None) -> Models:
        """The device's models, from the shared one and from what the method kept."""
