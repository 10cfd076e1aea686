"""Exceptions inside a component of the user's own, told apart from faults of fedfit and put into words."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fedfit.codecs.table import is_stage
from fedfit.core.plugins import module_of
from fedfit.errors import ComponentError, FedfitError
from fedfit.settings import Recipe


@contextmanager
def own_faults(recipe: Recipe, place: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Raises ``ComponentError`` for an exception inside a component of the user's own; others pass unchanged.

    Args:
        place: when it failed (``in round 3``), and what becomes of the folder.
    """
    try:
        yield
    except FedfitError:
        raise
    except Exception as error:  # code of the user's own, which may raise anything
        found = _own_part(recipe, error.__traceback__)
        if found is None:
            raise
        component, frames = found
        when, remedy = place()
        reason = " ".join(traceback.format_exception_only(error)[-1].split())
        text = f"{component} failed {when}: {reason}; {remedy}\n"
        raise ComponentError(text + "".join(traceback.format_list(frames)).rstrip("\n")) from error


def before_the_first_round(folder: Path) -> tuple[str, str]:
    """The place of a failure before the folder was made."""
    return "before round 0", f"{folder} was not written"


def _own_part(recipe: Recipe, trace: TracebackType | None) -> tuple[str, traceback.StackSummary] | None:
    """The component at fault and the frames of its own package; ``None`` where the fault is not the component's.

    A rule pulls its updates from the rounds, so an exception may pass through a rule that did not cause it: what fails in the
    rounds below the last frame of a component is not the component's.
    """
    walked = list(traceback.walk_tb(trace))
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in walked]
    packages = {module.partition(".")[0]: words for words, module in _components(recipe)}
    own = [number for number, module in enumerate(modules) if module.partition(".")[0] in packages]
    if not own or any(module.startswith("fedfit.rounds.") for module in modules[own[-1] :]):
        return None
    package = modules[own[-1]].partition(".")[0]
    exact = [words for words, module in _components(recipe) if module == modules[own[-1]]]
    frames = [walked[number] for number in own if modules[number].partition(".")[0] == package]
    return " or ".join(exact or [packages[package]]), traceback.StackSummary.extract(iter(frames))


def _components(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each component of the user's own that the recipe names, in words, with its module."""
    named = [("rule", recipe.federation.rule), ("task", recipe.task.kind), ("adapter kind", recipe.adapter.kind)]
    named += [
        ("codec", name) for name in dict.fromkeys((*recipe.transport.uplink, *recipe.transport.downlink)) if not is_stage(name)
    ]
    for kind, name in named:
        module = module_of(name)
        if module is not None:
            yield f"the {kind} {name}", module
