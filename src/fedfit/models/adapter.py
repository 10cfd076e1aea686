"""What the split model asks of an adapter, whatever its kind: tensors in and out, in groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from torch import Tensor, nn

from fedfit.core.update import Fact, Job, Update
from fedfit.models.cost import AdaptedShape
from fedfit.models.family import Family
from fedfit.settings import AdapterSettings


class Adapter(Protocol):
    """The trainable tensors of the one resident model, copied in and out in place; nothing is built at a switch of device."""

    @property
    def groups(self) -> frozenset[str]:
        """The groups of tensors that it trains."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trainable parameter by its name in ``core.update.named_tensors``, in a fixed order."""

    def pairs(self) -> Sequence[tuple[nn.Parameter, nn.Parameter]]:
        """A and B of every pair; none in a kind without pairs."""

    def train_only(self, groups: frozenset[str]) -> list[nn.Parameter]:
        """Lets gradients reach ``groups`` alone; returns their parameters, in a fixed order."""

    def reserve(self, rank: int) -> None:
        """Lets ranks up to ``rank`` be loaded; an optimiser made before is of no use after it."""

    def keep_at_home(self, layers: Collection[int]) -> None:
        """Makes groups of their own, ``core.update.HOME``, of the pairs of ``layers``: no rule then averages or sends them.

        Only of a kind with pairs.
        """

    def look_at(self, samples: Callable[[], Tensor], positions: Tensor | None = None) -> None:
        """Called before a batch passes, for what depends on a sample as a whole.

        Args:
            samples: gives the samples' mean hidden states at the cut, ``(batch, hidden)``.
            positions: that the task reads, ``(batch, positions)``, of a decoder.
        """

    def load(self, job: Job) -> None:
        """Copies the job's update into the model, and merges its delta into the frozen weights.

        Raises:
            UpdateRefused: for tensors that do not fit. The model is then as it was.
        """

    def disabled(self) -> AbstractContextManager[None]:
        """While it lasts, the model is the frozen base: without the adapter and without a merged delta."""

    def snapshot(self, weight: float = 1.0, facts: Mapping[str, Fact] | None = None) -> Update:
        """A copy of the trainable tensors on the CPU."""


@dataclass(frozen=True)
class AdapterKind:
    """A kind of adapter as the table holds it: how it is put into a model, read, saved, and counted.

    Args:
        pairs: it trains LoRA pairs, as rules that need ``pairs`` ask.
        inject: wraps a model with fresh trainable tensors on the given layers, drawn from a seed.
        resident: the adapter of a wrapped model that is on its device.
        save: writes the adapter in PEFT's format, for a base model of the given name, with the names of its outputs.
        parameters: the number of parameters that it trains in a model's shape at a rank, the head's left out.
    """

    pairs: bool
    inject: Callable[[nn.Module, Family, AdapterSettings, tuple[int, ...], int], PeftModel]
    resident: Callable[[PeftModel, Family], Adapter]
    save: Callable[[PeftModel, Path, str, Sequence[str]], None]
    parameters: Callable[[AdaptedShape, int], int]
