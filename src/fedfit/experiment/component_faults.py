"""Components that a recipe names and that do not exist: rule, adapter, task, method, codecs, and the task's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedfit.core.plugins import names
from fedfit.errors import Fault, choose
from fedfit.settings import Recipe


def component_faults(recipe: Recipe) -> Iterator[Fault]:
    """The faults of every name, by itself."""
    from fedfit.adapters.table import ADAPTERS, adapter_kind
    from fedfit.aggregation.table import RULES, rule_entry
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
        yield from _codec_faults(recipe, direction)
    yield from _scale_faults(recipe)


def _codec_faults(recipe: Recipe, direction: str) -> Iterator[Fault]:
    """Names that lead to no codec, and chains that do not suit their direction."""
    from fedfit.codecs.table import CODECS, STAGES, ZSTD, inner_names, is_stage, make_codec

    key, chosen, feedback = f"transport.{direction}", getattr(recipe.transport, direction), recipe.transport.error_feedback
    inner = inner_names(chosen)
    if len(inner) == 1 and not is_stage(inner[0]) and inner[0] != ZSTD:
        if direction == "uplink" and feedback:
            remedy = f'{inner[0]} leaves nothing out for it; remove it, or give a chain such as ["delta", "quantize:4"]'
            yield Fault("transport.error_feedback", True, remedy)
        known = {**CODECS, **STAGES, ZSTD: None}
        yield from _name_fault(key, inner[0], known, "fedfit.codecs", lambda name: make_codec((name,)))
        return
    try:
        make_codec(chosen, per=recipe.transport.per)
    except LookupError as error:
        yield Fault(key, list(chosen), str(error))
        return
    yield from _chain_faults(recipe, direction, inner)


def _chain_faults(recipe: Recipe, direction: str, names: Sequence[str]) -> Iterator[Fault]:
    """What a chain must be for its direction, and for error feedback."""
    from fedfit.codecs.table import make_stage

    feedback = recipe.transport.error_feedback
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
    for name in names:
        if name.partition(":")[0] in _OF_CHANGES and stages[0].order != 0:
            yield Fault("transport.uplink", list(names), f'{name} is for changes; put "delta" before it')


_OF_CHANGES = ("low_rank", "fedobd")
"""Stages that make no sense of the numbers themselves: what is left out would be a factor of zeros."""


def _scale_faults(recipe: Recipe) -> Iterator[Fault]:
    """Keys of scales without a stage that has any."""
    from fedfit.codecs.table import has_scales

    transport = recipe.transport
    if not has_scales((*transport.uplink, *transport.downlink)):
        for key, value, default in (("scale_per", transport.scale_per, "block"), ("block", transport.block, 64)):
            if value != default:
                yield Fault(f"transport.{key}", value, "nothing has scales; add quantize or nf4 to a direction, or remove it")
    elif transport.scale_per != "block" and transport.block != 64:
        yield Fault("transport.block", transport.block, f'scale_per is "{transport.scale_per}"; remove one of them')


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
