"""A comparison of methods: first a search for each method's learning rate, then every method in every case over the seeds.

A method in a case (a data set and its spread over the devices) is a point of an ordinary :class:`Sweep`, and every run has an
ordinary run folder::

    out/search/<data set>/runs/<method>-<rate>-seed<k>
    out/<data set>-<alpha>/runs/<method>-seed<k>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedfit.sweeps.describe import DATA_NAMES
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.sweep import Axis, Columns, Point, Setting, Sweep

SEARCH_FOLDER = "search"

_COSTS = (
    "uplink_bytes",
    "downlink_bytes",
    "simulated_s",
    "simulated_j",
    "rounds_to_target",
    "seconds_to_target",
    "joules_to_target",
    "server_s",
    "wall_s",
    "refused",
)
"""The columns of a comparison's tables behind its metrics."""


@dataclass(frozen=True)
class Method:
    """A line of the comparison: ``overrides`` (``section.key=value``) change the case's recipe.

    ``sends`` is false for a method without communication: it has no place on the axis of bytes sent. ``rates`` are learning
    rates of its own to try, for another optimiser.
    """

    name: str
    overrides: tuple[str, ...]
    sends: bool = True
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Case:
    """A setting to compare methods in: a data set, spread by a Dirichlet draw of concentration ``alpha``.

    Without ``alpha`` the recipe says how it is spread: over its natural clients. ``variant`` names a case of the same data
    and spread, whose recipe ``changes`` (``section.key=value``) make another.
    """

    source: str
    alpha: float | None = None
    variant: str = ""
    changes: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name of the case's folder, and of the case for ``--only``."""
        spread = "" if self.alpha is None else f"-{self.alpha:g}"
        return f"{self.source}{spread}" + (f"-{self.variant.replace(' ', '-')}" if self.variant else "")

    @property
    def label(self) -> str:
        """The case's name in tables and panels."""
        name = DATA_NAMES.get(self.source, self.source)
        words = [name, *([] if self.alpha is None else [f"α = {self.alpha:g}"]), *([self.variant] if self.variant else [])]
        return ", ".join(words)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the comparison's recipe."""
        spread = () if self.alpha is None else (f"partition.alpha={self.alpha}",)
        return (f'data.source="{self.source}"', *spread)

    @property
    def columns(self) -> Columns:
        """The case in tables."""
        spread = () if self.alpha is None else (("alpha", self.alpha),)
        return (("data", self.source), *spread, *((("case", self.variant),) if self.variant else ()))


@dataclass(frozen=True)
class Claim:
    """A claim that one method is better than another, for one or several pairs ``(better, worse)``; ``source`` is its origin.

    ``measure`` is what it is about: another metric that the comparison shows, or a cost; by default the leading metric. With a
    ``margin``, in displayed units, the claim is that the first is worse by less than that.
    """

    text: str
    source: str
    pairs: tuple[tuple[str, str], ...]
    measure: str = ""
    margin: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Methods to compare in every case. ``base`` is a recipe in TOML.

    The search tries the learning ``rates`` (or the method's own) for every method and data set, at concentration
    ``search_alpha`` and with the single seed ``search_seed``, which is not one of ``seeds``; a single rate needs no
    search. ``targets`` maps data sets to a value of ``metric``, and ``source_overrides`` to overrides of the recipe. Rates are
    chosen and claims are judged by ``metric``, in its own direction; ``beside`` are other metrics to show.
    """

    name: str
    title: str
    scale: str
    base: str
    methods: tuple[Method, ...]
    cases: tuple[Case, ...]
    rates: tuple[float, ...]
    search_alpha: float | None
    search_seed: int
    targets: Mapping[str, float]
    claims: tuple[Claim, ...] = ()
    notes: tuple[Setting, ...] = ()
    source_overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    metric: Metric = field(default_factory=Metric)
    beside: tuple[str, ...] = ("macro_f1",)

    def with_seeds(self, count: int | None) -> Comparison:
        """The same comparison over ``count`` seeds counted from 0; ``None`` keeps the seeds. The search keeps its own seed."""
        return self if count is None else replace(self, seeds=tuple(range(count)))

    def rates_of(self, method: Method) -> tuple[float, ...]:
        """The learning rates to try for ``method``."""
        return method.rates or self.rates

    @property
    def searches(self) -> bool:
        """Whether some method has several rates to choose from."""
        return any(len(self.rates_of(method)) > 1 for method in self.methods)

    @property
    def lowest_rates(self) -> dict[str, float]:
        """The lowest rate of each method; its only one where nothing is searched."""
        return {method.name: min(self.rates_of(method)) for method in self.methods}

    def search(self, source: str) -> Sweep:
        """The sweep of the methods with several rates, at each of these, on ``source``, with one seed; x is the rate."""
        case = Case(source, self.search_alpha)
        points = [
            Point(method.name, rate, (*self._overrides(case, method), f"training.learning_rate={rate}"))
            for method in self.methods
            for rate in self.rates_of(method)
            if len(self.rates_of(method)) > 1
        ]
        return self._sweep(f"{self.name} {SEARCH_FOLDER} {source}", points, (self.search_seed,))

    def main(self, case: Case, rates: Mapping[str, float]) -> Sweep:
        """The sweep of every method in ``case``; ``rates`` maps the method's name to its learning rate."""
        target = self.targets.get(case.source)
        points = [
            Point(
                method.name,
                None,
                (*self._overrides(case, method), f"training.learning_rate={rates[method.name]}"),
                panel=case.label,
                columns=(*case.columns, ("method", method.name)),
                facts=(("learning_rate", rates[method.name]), ("target", target)),
                exchanges=method.sends,
            )
            for method in self.methods
        ]
        return replace(self._sweep(f"{self.name} {case.slug}", points, self.seeds), target=target)

    def whole(self) -> Sweep:
        """All methods in all cases as one sweep, reported, not executed.

        In the first case the first method, and each method with rates of its own, appears at every rate.
        """
        points = []
        for case, method in ((case, method) for case in self.cases for method in self.methods):
            all_rates = case == self.cases[0] and (method == self.methods[0] or bool(method.rates))
            for rate in self.rates_of(method) if all_rates else (self.lowest_rates[method.name],):
                overrides = (*self._overrides(case, method), f"training.learning_rate={rate}")
                points.append(Point(method.name, rate if all_rates else None, overrides))
        return self._sweep(self.name, points, self.seeds)

    def search_folder(self, source: str, out: Path) -> Path:
        """The folder of the search on ``source``."""
        return out / SEARCH_FOLDER / source

    def sources(self) -> list[str]:
        """The data sets of the cases, each once."""
        return list(dict.fromkeys(case.source for case in self.cases))

    @property
    def shown_metrics(self) -> tuple[Metric, ...]:
        """The metrics of the tables, the leading one first."""
        return (self.metric, *(replace(self.metric, name=name) for name in self.beside))

    def only(self, cases: Sequence[Case]) -> Comparison:
        """The same comparison in ``cases`` only."""
        return replace(self, cases=tuple(cases))

    def matching(self, words: str) -> list[Case]:
        """The cases whose slug contains ``words``."""
        return [case for case in self.cases if words in case.slug]

    def _overrides(self, case: Case, method: Method) -> tuple[str, ...]:
        return (*case.overrides, *self.source_overrides.get(case.source, ()), *case.changes, *method.overrides)

    def _sweep(self, name: str, points: Sequence[Point], seeds: tuple[int, ...]) -> Sweep:
        return Sweep(
            name,
            self.title,
            Axis(""),
            self.base,
            tuple(points),
            self.notes,
            self.scale,
            seeds,
            self.metric,
            (*(f"final_{metric.name}" for metric in self.shown_metrics), *_COSTS),
            command=f"fedfit reproduce {self.name}",
        )
