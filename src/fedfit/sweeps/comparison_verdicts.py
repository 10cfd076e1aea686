"""Verdicts on the claims of a comparison, case by case and over all cases, from paired differences over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fedfit.sweeps.comparison import Claim, Comparison
from fedfit.sweeps.describe import table_text
from fedfit.sweeps.estimate import Estimate, difference_text, joint_word, paired_rule
from fedfit.sweeps.measures import Cost, measure_of, measured
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rows import Row

OVER_ALL = "over all"

_RULE = """\
A seed fixes the data, their spread over the devices, the ranks, the fleet and the initial head, so two methods are compared
seed by seed.
{paired}
"Over all" takes each seed's mean difference over the cases, so it has as many differences as there are seeds. No allowance is
made for the number of claims: of twenty that are empty, one comes out decided.
"""


def rule(metric: Metric) -> str:
    """How claims on ``metric`` are judged, in words."""
    return _RULE.format(paired=paired_rule(metric))


@dataclass(frozen=True)
class Judged:
    """A pair of a claim with its differences by column; columns are the labels of the cases, and ``OVER_ALL``."""

    higher: str
    lower: str
    estimates: dict[str, Estimate]


def judge_claim(claim: Claim, rows: Sequence[Row], metric: Metric) -> list[Judged]:
    """Judges the pairs of ``claim`` whose methods are both in ``rows``; ``rows`` must hold all seeds of both in each case.

    ``metric`` is the one that ``rows`` have as their curve, and that a claim without a measure of its own is about.
    """
    methods = {row.line for row in rows}
    pairs = [(higher, lower) for higher, lower in claim.pairs if {higher, lower} <= methods]
    measure = measure_of(claim.measure, metric)
    return [Judged(higher, lower, _estimates(higher, lower, rows, measure, metric, claim.margin)) for higher, lower in pairs]


def claim_word(judged: Sequence[Judged], column: str) -> str:
    """The verdict on all pairs of a claim in one column."""
    return joint_word(pair.estimates[column].word for pair in judged)


def verdicts_page(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The text of ``verdicts.md``: all claims by case and over all cases, then each claim's pairs."""
    judged = {claim: found for claim in comparison.claims if (found := judge_claim(claim, rows, comparison.metric))}
    columns = [*dict.fromkeys(row.panel for row in rows), OVER_ALL]
    summary = [
        (claim.text, claim.source, _difference_text(pairs), *(claim_word(pairs, column) for column in columns))
        for claim, pairs in judged.items()
    ]
    parts = [
        f"# {comparison.name}: the claims, and the findings here",
        table_text(("claim", "from", "difference over all", *columns), summary),
        "## Pair by pair",
    ]
    for claim, pairs in judged.items():
        lines = [(f"{p.higher} − {p.lower}", *(_cell(p.estimates[column]) for column in columns)) for p in pairs]
        measure = measure_of(claim.measure, comparison.metric)
        better = "higher" if measure.higher_is_better else "lower"
        about = [f"In {measure.difference_unit} of {_about(measure)}, where {better} is better."] if claim.measure else []
        if claim.margin:
            about.append(f"Judged with a margin: {claim.margin:g} is added to the gain before it is held against the noise.")
        parts += [f"### {claim.text}", *about, table_text(("difference", *columns), lines)]
    return "\n\n".join([*parts, "## How it is judged", rule(comparison.metric)])


def _about(measure: Metric) -> str:
    return "the whole run" if isinstance(measure, Cost) else measure.key.replace("_", " ")


def _difference_text(pairs: Sequence[Judged]) -> str:
    """The difference of a single pair, or the range of several."""
    if len(pairs) == 1:
        return str(pairs[0].estimates[OVER_ALL])
    estimates = [pair.estimates[OVER_ALL] for pair in pairs]
    least, most = (choose(estimates, key=lambda estimate: estimate.mean) for choose in (min, max))
    between = f"{difference_text(least.mean, least.metric)} to {difference_text(most.mean, most.metric)}"
    return f"{between} {least.metric.difference_unit} over {len(pairs)} pairs".replace("  ", " ")


def _cell(estimate: Estimate) -> str:
    return f"{estimate.bare}, {estimate.word}"


def _estimates(
    higher: str, lower: str, rows: Sequence[Row], metric: Metric, leading: Metric, margin: float
) -> dict[str, Estimate]:
    cases = list(dict.fromkeys(row.panel for row in rows))
    by_case = {case: _differences(higher, lower, case, rows, metric, leading) for case in cases}
    found = {case: Estimate.of(list(by_seed.values()), metric, margin) for case, by_seed in by_case.items()}
    seeds = by_case[cases[0]]
    found[OVER_ALL] = Estimate.of([statistics.fmean(by_case[case][seed] for case in cases) for seed in seeds], metric, margin)
    return found


def _differences(higher: str, lower: str, case: str, rows: Sequence[Row], metric: Metric, leading: Metric) -> dict[int, float]:
    """Seed → difference of the displayed values."""
    high, low = (
        {row.seed: measured(row, metric, leading) for row in rows if (row.panel, row.line) == (case, name)}
        for name in (higher, lower)
    )
    return {seed: high[seed] - low[seed] for seed in high}
