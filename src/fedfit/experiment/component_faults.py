"""Components that a recipe names and that do not exist: rule, adapter, task, method, codecs, and the task's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedfit.core.plugins import names
from fedfit.errors import Fault, choose
from fedfit.settings import Recipe


def component_faults(recipe: Recipe) -> Iterator[Fault]:
    """The faults of every name, by itself."""
    from fedfit.adapters.table import ADAPTERS, adapter_kind
    from fedfit.aggregation.table import RULES, rule_entry
    from fedfit.codecs.table import CODECS, STAGES, is_stage, make_codec
    from fedfit.personalization.table import METHODS, NONE, method_entry
    from fedfit.tasks.table import TASKS, task_entry

    yield from _name_fault("federation.rule", recipe.federation.rule, RULES, "fedfit.rules", rule_entry)
    yield from _name_fault("adapter.kind", recipe.adapter.kind, ADAPTERS, "fedfit.adapters", adapter_kind)
    yield from _name_fault("task.kind", recipe.task.kind, TASKS, "fedfit.tasks", task_entry)
    if recipe.personalization.method != NONE:
        method = recipe.personalization.method
        yield from _name_fault("personalization.method", method, METHODS, "fedfit.methods", method_entry)
    yield from _metric_faults(recipe)
    for direction in ("uplink", "downlink"):
        key, chosen = f"transport.{direction}", getattr(recipe.transport, direction)
        if len(chosen) == 1 and not is_stage(chosen[0]):
            if direction == "uplink" and recipe.transport.error_feedback:
                remedy = f'{chosen[0]} leaves nothing out for it; remove it, or give a chain such as ["delta", "quantize:4"]'
                yield Fault("transport.error_feedback", True, remedy)
            yield from _name_fault(key, chosen[0], {**CODECS, **STAGES}, "fedfit.codecs", lambda name: make_codec((name,)))
            continue
        try:
            make_codec(chosen)
        except LookupError as error:
            yield Fault(key, list(chosen), str(error))
            continue
        yield from _chain_faults(recipe, direction)


def _chain_faults(recipe: Recipe, direction: str) -> Iterator[Fault]:
    """What a chain must be for its direction, and for error feedback."""
    from fedfit.codecs.table import make_stage

    names, feedback = getattr(recipe.transport, direction), recipe.transport.error_feedback
    stages = [make_stage(name) for name in names]
    if direction == "downlink":
        other = [name for name, stage in zip(names, stages, strict=True) if stage.order < 2]
        if other:
            remedy = f"{other[0]} is for what devices send, against what they were sent; a downlink may round: bf16, quantize:8"
            yield Fault("transport.downlink", list(names), remedy)
        return
    if feedback and stages[0].order != 0:
        yield Fault("transport.error_feedback", feedback, "it adds up what differences leave out; begin the uplink with delta")
    elif feedback and all(stage.lossless for stage in stages):
        yield Fault("transport.error_feedback", feedback, "the uplink leaves nothing out; remove it, or add quantize or top_k")


def _name_fault(key: str, name: str, table: Mapping[str, Any], group: str, look_up: Callable[[str], object]) -> Iterator[Fault]:
    """The fault of a name that leads to no component: near names for a slip, the reason for one of the user's own."""
    try:
        look_up(name)
    except LookupError as error:
        known = names(table, group)
        yield Fault(key, name, str(error) if ":" in name or name in known else choose(name, known))


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
