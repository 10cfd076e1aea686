"""A personalisation method: what it does on devices, and what it asks of the rule beside which it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fedfit.aggregation.contract import Rule, no_faults
from fedfit.core.personal import Local, Models
from fedfit.core.update import Job, Memory, Update
from fedfit.errors import Fault
from fedfit.settings import Recipe


def trainings(steps: int | None, recipe: Recipe) -> float:
    """A training of ``steps`` in trainings of the recipe; 1 for ``None``, and where the recipe counts epochs."""
    whole = recipe.training.local_steps
    return 1.0 if steps is None or whole is None else steps / whole


def _as_it_is(rule: Rule) -> Rule:
    return rule


@dataclass(frozen=True)
class Method:
    """A method, ready to run: ``core.personal.Personal``, and the change that it makes to the rule.

    Args:
        train, models: see ``core.personal.Personal``.
        around: the rule of the shared adapter, from that of the recipe; private groups are added to its traits besides.
        private: groups that never leave a device.
        few_shot: whether devices set a few-shot part aside.
        rank_factor: the rank of its largest model, in ranks of the adapter.
        home_layers: the topmost adapted layers whose pairs are no part of the shared adapter but groups of their own,
            ``core.update.HOME``.
        passes: trainings of a round, each as long as the recipe's; what a device's round costs is this many times as much.
    """

    train: Callable[[Local, Job, Memory | None], tuple[Update, Memory | None]]
    models: Callable[[Local, Job, Memory | None], Models]
    around: Callable[[Rule], Rule] = _as_it_is
    private: frozenset[str] = field(default_factory=frozenset)
    few_shot: bool = False
    rank_factor: int = 1
    home_layers: int = 0
    passes: float = 1.0

    def rule(self, rule: Rule) -> Rule:
        """The rule of the shared adapter."""
        found = self.around(rule)
        return replace(found, traits=replace(found.traits, private=found.traits.private | self.private))


@dataclass(frozen=True)
class MethodEntry:
    """A method as the table holds it.

    Args:
        make: the method, from its keys and the recipe.
        keys: the dataclass of the keys in ``[personalization.<name>]``; ``None`` for a method without keys.
        faults: what must hold between the method's keys and the rest of a recipe.
        server_step: whether it brings a server's step of its own, in place of a server optimiser.
        pairs: whether it needs an adapter of LoRA pairs.
        head: whether it is about the head, which must then be trained.
    """

    make: Callable[[Any, Recipe], Method]
    keys: type[Any] | None = None
    faults: Callable[[Recipe, Any], Iterator[Fault]] = no_faults
    server_step: bool = False
    head: bool = False
    pairs: bool = False

    def default_keys(self) -> Any:
        """The keys at their defaults."""
        return None if self.keys is None else self.keys()
