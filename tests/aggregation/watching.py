"""The real client and the real codec, with a hand on what passes through them."""

from collections.abc import Callable
from typing import Any

from fedfit.codecs.safetensors import SafetensorsCodec
from fedfit.records import PARTS, Packet, Task, Update
from fedfit.rounds.client import Client
from fedfit.simulation.run import Simulation, run
from fedfit.tracking.checkpoint import Checkpoints

Change = Callable[[int, int, Update], Update]
"""Of round, device, and what the device trained."""


class _Changed(Client):
    change: Change

    def train(self, task: Task, samples: Any, indices: Any, round_number: int, device: int, parts: Any = PARTS) -> Update:
        return self.change(round_number, device, super().train(task, samples, indices, round_number, device, parts))


def change_training(made: Simulation, change: Change) -> None:
    """What every device of ``made`` trains goes through ``change`` before the rule sees it."""
    client = _Changed(made.model, made.trunk, made.recipe.training, made.recipe.seed, made.recipe.federation.rounds)
    client.change = change
    made.client = client


class Recording(SafetensorsCodec):
    """Keeps every packet that it encoded."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []

    def encode(self, update: Update, parts: frozenset[str] = PARTS) -> Packet:
        self.packets.append(super().encode(update, parts))
        return self.packets[-1]


def run_and_save(made: Simulation, checkpoints: Checkpoints) -> None:
    """As far as it comes."""
    for result in run(made):
        checkpoints.save(result)
