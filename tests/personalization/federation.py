"""A small federation whose devices have models of their own, and what its devices keep."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fedfit.core.update import Memory, Update, named_tensors
from fedfit.experiment.build import Experiment, assemble
from fedfit.personalization.table import method_entry
from fedfit.rounds.memories import parted
from fedfit.settings import PersonalizationSettings
from fedfit.tracking.memories import DeviceMemories
from tests.builders import tiny_experiment, tiny_recipe

TRAINING = [np.arange(0, 8), np.arange(12, 24), np.arange(30, 36), np.arange(40, 56)]
FEW_SHOT = [np.arange(8, 10), np.arange(24, 27), np.empty(0, dtype=np.int64), np.arange(56, 60)]
"""Device 2 has too few samples for a part of its own."""
TESTS = [np.arange(10, 12), np.arange(27, 30), np.arange(36, 40), np.arange(60, 66)]


def federation(
    folder: Path, method: str, keys: dict[str, Any] | None = None, memories: Path | None = None, **sections: Any
) -> Experiment:
    """Four devices that all take part in each of six rounds; ``keys`` are those of ``[personalization.<method>]``."""
    kind = method_entry(method).keys
    options = {} if kind is None else {method: kind(**(keys or {}))}
    federated = {"devices": 4, "devices_per_round": 4, "rounds": 6, **sections.pop("federation", {})}
    training = {"local_steps": 2, **sections.pop("training", {})}
    recipe = tiny_recipe(folder, federation=federated, training=training, **sections)
    recipe = replace(recipe, personalization=PersonalizationSettings(method, options=options))
    made = tiny_experiment(recipe, None, 66, TRAINING, TESTS, FEW_SHOT)
    return assemble(replace(made.parts, memories=DeviceMemories(memories)))


def own_of(made: Experiment, device: int, after_round: int) -> Memory:
    """What the method kept on ``device`` in its last round up to ``after_round``."""
    own = parted(made.parts.memories.read(device, after_round + 1)).own
    assert own is not None
    return own


def same(own: Memory, adapter: Update) -> bool:
    """Whether the adapter in ``own`` is ``adapter``, to the bit."""
    wanted = named_tensors(adapter)
    return own.tensors.keys() == wanted.keys() and all(bool((t == wanted[name]).all()) for name, t in own.tensors.items())


def mean(updates: list[Update]) -> dict[str, Tensor]:
    """The plain mean, in float64."""
    named = [named_tensors(update) for update in updates]
    return {name: sum(each[name].double() for each in named) / len(named) for name in named[0]}  # type: ignore[misc]
