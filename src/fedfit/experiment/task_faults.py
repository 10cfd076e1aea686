"""What must hold between the task and the rest of a recipe: its keys, the data's columns, the partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from fedfit.data_settings import CLASSIFIED_SOURCES, INSTRUCTION_SOURCES, PREFERENCE_SOURCES, TEXT_SOURCES
from fedfit.errors import Fault
from fedfit.settings import Recipe

_ROLES = ("prompt", "response", "answer", "choices", "chosen", "rejected", "label", "pair")
_READS = {
    "instruction": ("template", "max_new_tokens", "generate_samples", "positive"),
    "preference": ("template", "max_new_tokens", "loss", "beta", "reference"),
    "language_modelling": ("max_new_tokens",),
    "classification": ("metrics", "positive"),
}
"""The keys of ``[task]`` by the kinds that read them, in training or when a run answers (``fedfit chat``, ``fedfit predict``);
a task of one's own may read all."""

_HOLDS: tuple[tuple[Sequence[str], str, Sequence[str]], ...] = (
    (CLASSIFIED_SOURCES, "texts with classes", ("classification", "language_modelling")),
    (INSTRUCTION_SOURCES, "prompts with responses", ("instruction",)),
    (PREFERENCE_SOURCES, "prompts with a better and a worse response", ("preference",)),
    (TEXT_SOURCES, "texts without classes", ("language_modelling",)),
)
"""Named data sets, what they hold, and the kinds of tasks that read it."""


def task_faults(recipe: Recipe) -> Iterator[Fault]:
    """Keys that the task does not read, and data or a partition that it cannot use."""
    from fedfit.tasks.table import task_entry
    from fedfit.tasks.templates import template_fault

    try:
        entry = task_entry(recipe.task.kind)
    except LookupError:  # reported with the key itself
        return
    yield from _unread_keys(recipe)
    yield from _positive(recipe)
    if recipe.task.kind in _READS:
        yield from _unread_columns(recipe, entry.columns)
    if "template" in _READS.get(recipe.task.kind, ()) and (remedy := template_fault(recipe.task.template)):
        yield Fault("task.template", recipe.task.template, remedy)
    if recipe.data.choices is not None and recipe.data.answer is None:
        yield Fault("data.choices", list(recipe.data.choices), "data.answer must name the column whose answers they are")
    yield from _unfit_source(recipe)
    if not entry.language:
        return
    if recipe.partition.kind in ("dirichlet", "shards"):
        yield Fault("partition.kind", recipe.partition.kind, "deals by class, and this task has none; choose iid or by_column")
    if recipe.training.target_accuracy:
        remedy = f"{recipe.task.kind} has no accuracy over classes; remove it, or set training.patience"
        yield Fault("training.target_accuracy", recipe.training.target_accuracy, remedy)


def _unfit_source(recipe: Recipe) -> Iterator[Fault]:
    """A named data set that the task cannot read; a task of one's own is its own judge."""
    for sources, holds, kinds in _HOLDS:
        if recipe.data.source in sources and recipe.task.kind in _READS and recipe.task.kind not in kinds:
            remedy = f'data.source = "{recipe.data.source}" has {holds}; choose {" or ".join(kinds)}, or other data'
            yield Fault("task.kind", recipe.task.kind, remedy)


def _positive(recipe: Recipe) -> Iterator[Fault]:
    from fedfit.tasks.classification import OF_ONE_CLASS

    if recipe.task.kind != "classification":
        return
    needing = [name for name in recipe.task.metrics or () if name in OF_ONE_CLASS]
    if needing and recipe.task.positive is None:
        yield Fault("task.positive", None, f"task.metrics has {needing[0]}, which is of one class; name the class")
    if recipe.task.positive is not None and not needing:
        remedy = f"task.metrics has none of {', '.join(OF_ONE_CLASS)}, which are of this class; add one, or remove it"
        yield Fault("task.positive", recipe.task.positive, remedy)


def _unread_keys(recipe: Recipe) -> Iterator[Fault]:
    kind = recipe.task.kind
    for item in fields(recipe.task):
        value = getattr(recipe.task, item.name)
        readers = [name for name, keys in _READS.items() if item.name in keys]
        if kind in _READS and readers and kind not in readers and value != item.default and item.name != "metrics":
            yield Fault(f"task.{item.name}", value, f"{kind} does not read it; remove it, or choose {' or '.join(readers)}")


def _unread_columns(recipe: Recipe, columns: Sequence[str]) -> Iterator[Fault]:
    beside = {"label": "pair", "answer": "choices"}
    read = {*columns, *(other for name, other in beside.items() if name in columns)}
    for item in fields(recipe.data):
        value = getattr(recipe.data, item.name)
        if item.name in _ROLES and item.name not in read and value != item.default:
            shown = list(value) if isinstance(value, tuple) else value
            yield Fault(f"data.{item.name}", shown, f"the task {recipe.task.kind} does not read it; remove it")
