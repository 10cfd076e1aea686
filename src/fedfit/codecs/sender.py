"""What a sender keeps of its packets: the errors, tensor by tensor, and what stages go on from.

A device need not send the same tensors in every round (RoLoRA sends A and B in turn), so an error waits until its tensor is
sent again; and what a stage keeps, which is of all tensors of a packet together, waits for the next packet of the same tensors.
Of the latter those of the last two kinds of packets are kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfit.codecs.described import Forms, digest_of
from fedfit.core.update import Memory

log = logging.getLogger(__name__)

_ERROR, _STAGE, _TURN = "error ", "stage ", "turn "
_KINDS = 2


@dataclass(frozen=True)
class Sender:
    """Errors by tensor, what stages keep by kind of packet and number of the stage, and the kinds with their turns."""

    errors: Mapping[str, Tensor] = field(default_factory=dict)
    stages: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, memory: Memory | None) -> Sender:
        """What ``memory`` holds of it; nothing of ``None``."""
        found = {} if memory is None else memory.tensors
        errors = {name.removeprefix(_ERROR): tensor for name, tensor in found.items() if name.startswith(_ERROR)}
        stages = dict[str, dict[int, Tensor]]()
        for name, tensor in found.items():
            if name.startswith(_STAGE):
                kind, _, number = name.removeprefix(_STAGE).partition(" ")
                stages.setdefault(kind, {})[int(number)] = tensor
        numbers = {} if memory is None else memory.numbers
        turns = {name.removeprefix(_TURN): int(turn) for name, turn in numbers.items() if name.startswith(_TURN)}
        return cls(errors, stages, turns)

    def memory(self) -> Memory | None:
        """The inverse of ``of``."""
        tensors = {_ERROR + name: tensor for name, tensor in self.errors.items()}
        for kind, kept in self.stages.items():
            tensors |= {f"{_STAGE}{kind} {number}": tensor for number, tensor in kept.items()}
        return Memory(tensors, {_TURN + kind: turn for kind, turn in self.turns.items()}) if tensors else None

    def error(self, forms: Forms) -> Tensor:
        """The errors of tensors of ``forms``, one after another; zeros for those that have none, or one of another shape."""
        there = {name: self.errors[name] for name in forms if name in self.errors}
        known = {name: error for name, error in there.items() if list(error.shape) == list(forms[name])}
        if len(known) < len(there):
            log.warning("error feedback starts anew for %d tensors, whose shapes have changed", len(there) - len(known))
        parts = [known.get(name, torch.zeros(math.prod(shape))).reshape(-1) for name, shape in forms.items()]
        return torch.cat([torch.zeros(0), *parts])

    def kept(self, forms: Forms) -> Mapping[int, Tensor]:
        """What the stages kept of the last packet of ``forms``."""
        return self.stages.get(digest_of(forms), {})

    def after(self, forms: Forms, error: Tensor | None, kept: Mapping[int, Tensor]) -> Sender:
        """The state after a packet of ``forms``; ``error`` is of all its tensors, one after another."""
        errors = dict(self.errors)
        if error is not None:
            pieces = torch.split(error, [math.prod(shape) for shape in forms.values()]) if forms else ()
            errors |= {name: piece.view(*shape) for (name, shape), piece in zip(forms.items(), pieces, strict=True)}
        if not kept:
            return Sender(errors, self.stages, self.turns)
        kind = digest_of(forms)
        turns = {**self.turns, kind: 1 + max(self.turns.values(), default=0)}
        newest = sorted(turns, key=turns.__getitem__)[-_KINDS:]
        stages = {**self.stages, kind: kept}
        return Sender(errors, {each: stages[each] for each in newest}, {each: turns[each] for each in newest})
