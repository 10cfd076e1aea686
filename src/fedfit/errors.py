"""Every error that is the user's to mend, drawn as one tree.

    FedfitError
    ├── RecipeError      one or more faults of a recipe, all reported at once
    ├── DataError        a data set that cannot be read, or that no classifier can be trained on
    ├── ModelError       a model that cannot be had or whose family is not supported
    ├── UpdateRefused    one device's update that must not be averaged; the round goes on
    ├── RunFolderError   a run folder that exists already, is damaged, or cannot be written
    └── TrainingStopped  the run cannot go on (every update of several rounds was refused)

The command line prints the message alone; a traceback is for mistakes of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe: the key, the value found there, and what to do about it."""

    key: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.remedy}"


class FedfitError(Exception):
    """Base of the errors that a user can mend; its text says how."""


class RecipeError(FedfitError):
    """A recipe, or a fleet file, with at least one fault; ``faults`` holds all of them."""

    def __init__(self, faults: Sequence[Fault], what: str = "the recipe") -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = [f"{what} has {count}:", *(f"  {fault}" for fault in self.faults)]
        super().__init__("\n".join(lines))


class DataError(FedfitError):
    """Data that is missing, unreadable, or cannot be learned from."""


class ModelError(FedfitError):
    """A model that is missing or of a family that cannot be split."""


class UpdateRefused(FedfitError):
    """An update that is not finite or not of the shape that was sent out."""


class RunFolderError(FedfitError):
    """A run folder that is in the way, damaged, or cannot be written."""


class TrainingStopped(FedfitError):
    """A run that would only waste time if it went on."""
