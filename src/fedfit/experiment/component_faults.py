"""Components that a recipe names and that do not exist: rule, adapter, task, method, codecs, and the task's metrics."""

from __future__ import annotations

from collections.abc import Iterator

from fedfit.errors import Fault, choose
from fedfit.experiment.name_fault import name_fault
from fedfit.experiment.transport_faults import transport_faults
from fedfit.settings import Recipe


def component_faults(recipe: Recipe) -> Iterator[Fault]:
    """The faults of every name, by itself."""
    from fedfit.adapters.table import ADAPTERS, adapter_kind
    from fedfit.aggregation.table import RULES, rule_entry
    from fedfit.personalization.table import METHODS, NONE, method_entry
    from fedfit.tasks.table import TASKS, task_entry

    yield from name_fault("federation.rule", recipe.federation.rule, RULES, "fedfit.rules", rule_entry)
    yield from name_fault("adapter.kind", recipe.adapter.kind, ADAPTERS, "fedfit.adapters", adapter_kind)
    yield from name_fault("task.kind", recipe.task.kind, TASKS, "fedfit.tasks", task_entry)
    if recipe.personalization.method != NONE:
        method = recipe.personalization.method
        yield from name_fault("personalization.method", method, METHODS, "fedfit.methods", method_entry)
    yield from _metric_faults(recipe)
    yield from transport_faults(recipe.transport)


def _metric_faults(recipe: Recipe) -> Iterator[Fault]:
    """Metrics that the task does not have, or that are named twice."""
    from fedfit.tasks.table import task_entry

    try:
        known = task_entry(recipe.task.kind).metrics
    except LookupError:  # reported with the task itself
        return
    chosen = recipe.task.metrics or ()
    if chosen and not known:
        yield Fault("task.metrics", list(chosen), f"{recipe.task.kind} measures all that it has; remove the key")
        return
    wrong = [name for name in chosen if name not in known]
    yield from (Fault("task.metrics", name, choose(name, known)) for name in wrong)
    if len(set(chosen)) != len(chosen):
        yield Fault("task.metrics", list(chosen), "name each metric once")
