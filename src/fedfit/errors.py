"""Every error that a user can mend, as one tree; and guesses at a misspelt name.

    FedfitError
    ├── RecipeError      one or more faults of a recipe, all reported at once
    ├── DataError        a data set that cannot be read, or that no classifier can be trained on
    ├── ModelError       a model that is not available or whose family is not supported
    ├── UpdateRefused    one device's update that must not be averaged; the round goes on
    ├── RunFolderError   a run folder that exists already, is damaged, or cannot be written
    ├── ComponentError   an exception inside a rule, task, adapter kind or codec of the user's own
    └── TrainingStopped  the run cannot go on (every update of several rounds was refused)

The command line prints the message alone; a traceback is for mistakes of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe: the key, its value, and the remedy."""

    key: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.remedy}"


class FedfitError(Exception):
    """Base of the errors that a user can mend; its text says how."""


class RecipeError(FedfitError):
    """A recipe, or a fleet file, with at least one fault; ``faults`` holds all of them.

    The message counts and lists them, unless ``text`` says it better.
    """

    def __init__(self, faults: Sequence[Fault], what: str = "the recipe", text: str | None = None) -> None:
        self.faults = tuple(faults)
        if text is not None:
            super().__init__(text)
            return
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
    """A run folder that is in the way, damaged, or cannot be written.

    ``in_python`` is the text with the remedies of the Python API, where those of the command line are others.
    """

    def __init__(self, text: str, in_python: str | None = None) -> None:
        super().__init__(text)
        self.in_python = in_python or text


class ComponentError(FedfitError):
    """An exception inside a user's own rule, task, adapter kind or codec, which is its ``__cause__``."""


class TrainingStopped(FedfitError):
    """A run that would only waste time if it went on."""


def did_you_mean(given: object, names: Iterable[str], aliases: Mapping[str, Sequence[str]] | None = None) -> str:
    """Returns ``"did you mean 'x'? "`` for the names nearest to ``given``, or ``""`` when no name is near.

    ``aliases`` are other words for some of the names; they are tried last. For the names alone use ``nearest``.
    """
    near = nearest(given, names)
    if not near and aliases:
        near = [name for alias in nearest(given, aliases) for name in aliases[alias]]
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""


def choose(given: object, names: Iterable[str]) -> str:
    """Returns the remedy for a word that is none of ``names``: the nearest, then all of them."""
    names = list(names)
    return f"{did_you_mean(given, names)}choose one of {', '.join(names)}"


def nearest(given: object, names: Iterable[str]) -> list[str]:
    """Returns the names that ``given`` may be a slip for: those equal or beginning with it, else the one most like it.

    Case and the signs ``-``, ``_`` and space do not count.
    """
    import difflib  # here: a slip is rare, and `import fedfit` must stay fast

    word, folded = _fold(str(given)), {name: _fold(name) for name in names}
    equal = [name for name, short in folded.items() if short == word]
    longer = [name for name, short in folded.items() if len(word) > 1 and short.startswith(word)]
    like = difflib.get_close_matches(word, folded.values(), n=1)
    return equal or longer or [name for name, short in folded.items() if short in like][:1]


def _fold(name: str) -> str:
    return name.lower().translate({ord(sign): None for sign in "-_ "})
