"""The table of tasks, by the names of ``task.kind``.

A task of one's own needs no row here: ``package.module:ENTRY`` names its ``TaskEntry``, and so does an entry point of
``fedfit.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfit.core.plugins import find
from fedfit.core.task import Task
from fedfit.data.corpus import Corpus
from fedfit.settings import TaskSettings
from fedfit.tasks.classification import METRICS, Classification


@dataclass(frozen=True)
class TaskEntry:
    """A task as the table holds it.

    Args:
        make: the task of a corpus.
        metrics: the names that ``task.metrics`` may hold.
    """

    make: Callable[[TaskSettings, Corpus], Task]
    metrics: Sequence[str] = ()


TASKS: dict[str, TaskEntry] = {
    "classification": TaskEntry(lambda settings, corpus: Classification(corpus.label_names, settings.metrics), tuple(METRICS)),
}


def task_entry(name: str) -> TaskEntry:
    """The entry of the task ``name``.

    Raises:
        LookupError: with the reason, for a name that leads to none.
    """
    return find(name, TASKS, "fedfit.tasks", TaskEntry)
