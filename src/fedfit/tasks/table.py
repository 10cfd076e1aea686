"""The table of tasks, by the names of ``task.kind``.

A task of one's own needs no row here: ``package.module:ENTRY`` names its ``TaskEntry``, and so does an entry point of
``fedfit.tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedfit.core.plugins import find
from fedfit.core.task import Task
from fedfit.data.classification import build_corpus
from fedfit.data.corpus import Corpus
from fedfit.data.prompted import build_instructions, build_plain_text, build_preferences
from fedfit.data.sources import Read
from fedfit.settings import TaskSettings
from fedfit.tasks.classification import DEFAULTS, METRICS, OF_ONE_CLASS, Classification
from fedfit.tasks.exact_answers import answer_frame
from fedfit.tasks.instruction import Instruction
from fedfit.tasks.language_modelling import LanguageModelling
from fedfit.tasks.preference import Preference


@dataclass(frozen=True)
class TaskEntry:
    """A task as the table holds it.

    Args:
        make: the task of a corpus.
        metrics: the names that ``task.metrics`` may hold; none where the task's metrics are fixed.
        defaults: the metrics of a recipe that names none.
        read: makes the corpus of a data set's tables.
        language: whether it trains a language model, and not a classifier.
        columns: the keys of ``[data]`` that name its columns.
    """

    make: Callable[[TaskSettings, Corpus], Task]
    metrics: Sequence[str] = ()
    defaults: Sequence[str] = DEFAULTS
    read: Read = build_corpus
    language: bool = False
    columns: Sequence[str] = ("text", "label")


def _classification(settings: TaskSettings, corpus: Corpus) -> Task:
    return Classification(corpus.label_names, settings.metrics if settings.metrics is not None else DEFAULTS, settings.positive)


def _instruction(settings: TaskSettings, corpus: Corpus) -> Task:
    frame = answer_frame(corpus.train) if corpus.choices else ("", "")
    longest, shown = settings.max_new_tokens, settings.generate_samples
    return Instruction(settings.template, corpus.choices, longest, shown, frame, settings.positive)


def _preference(settings: TaskSettings, corpus: Corpus) -> Task:
    return Preference(settings.template, settings.loss, settings.beta, settings.reference)


TASKS: dict[str, TaskEntry] = {
    "classification": TaskEntry(_classification, (*METRICS, *OF_ONE_CLASS)),
    "instruction": TaskEntry(
        _instruction, defaults=(), read=build_instructions, language=True, columns=("prompt", "response", "answer")
    ),
    "preference": TaskEntry(
        _preference, defaults=(), read=build_preferences, language=True, columns=("prompt", "chosen", "rejected")
    ),
    "language_modelling": TaskEntry(
        lambda settings, corpus: LanguageModelling(), defaults=(), read=build_plain_text, language=True, columns=("text",)
    ),
}


def task_entry(name: str) -> TaskEntry:
    """The entry of the task ``name``.

    Raises:
        LookupError: with the reason, for a name that leads to none.
    """
    return find(name, TASKS, "fedfit.tasks", TaskEntry)


def make_task(settings: TaskSettings, corpus: Corpus) -> Task:
    """The task of ``settings`` for ``corpus``, with its usual metrics where the recipe names none."""
    entry = task_entry(settings.kind)
    return entry.make(settings if settings.metrics is not None else replace(settings, metrics=tuple(entry.defaults)), corpus)
