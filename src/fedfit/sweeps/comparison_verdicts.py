"""Whether the claims of a comparison hold, case by case and over all, from paired differences over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fedfit.sweeps.comparison import Case, Claim, Comparison
from fedfit.sweeps.comparison_rows import Outcome
from fedfit.sweeps.describe import table_text
from fedfit.sweeps.verdicts import FAILS, HOLDS, NOISE, Estimate

OVER_ALL = "over all"

RULE = """\
A seed fixes the data, their spread over the devices, the ranks, the fleet and the initial head, so two methods are compared
seed by seed. With n differences of mean m and standard error s/√n, a claim holds when m lies above t·s/√n, does not hold
when it lies below −t·s/√n, and is within the noise otherwise; t is Student's two-sided 95 % quantile at n − 1 degrees of
freedom. One seed tells nothing of the noise, so with one seed every claim is within it. "Over all" takes each seed's mean
difference over the cases, so it has as many differences as there are seeds. A claim of several pairs holds when each does,
and does not hold when any does not. No allowance is made for the number of claims: of twenty that are empty, one comes out
decided.

Differences are in points of test accuracy after the last round, mean ± standard error.
"""


@dataclass(frozen=True)
class Judged:
    """A pair of a claim with its difference by column: the label of each case, and ``OVER_ALL``."""

    higher: str
    lower: str
    estimates: dict[str, Estimate]


def judge_claim(claim: Claim, outcomes: Sequence[Outcome]) -> list[Judged]:
    """Every pair of ``claim`` whose two methods are in ``outcomes``, which must hold every seed of both in each case."""
    there = {outcome.method for outcome in outcomes}
    pairs = [(higher, lower) for higher, lower in claim.pairs if {higher, lower} <= there]
    return [Judged(higher, lower, _estimates(higher, lower, outcomes)) for higher, lower in pairs]


def claim_word(judged: Sequence[Judged], column: str) -> str:
    """The verdict on all pairs of a claim in one column."""
    words = [pair.estimates[column].word for pair in judged]
    return FAILS if FAILS in words else NOISE if NOISE in words else HOLDS


def verdicts_page(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """``verdicts.md``: the claims over all cases, then each with its pairs case by case."""
    judged = {claim: found for claim in comparison.claims if (found := judge_claim(claim, outcomes))}
    columns = [*dict.fromkeys(outcome.case.label for outcome in outcomes), OVER_ALL]
    summary = [
        (claim.text, claim.source, _told(pairs), *(claim_word(pairs, column) for column in columns))
        for claim, pairs in judged.items()
    ]
    parts = [
        f"# {comparison.name}: what was claimed, and what is seen here",
        table_text(("claim", "from", "difference over all", *columns), summary),
        "## Pair by pair",
    ]
    for claim, pairs in judged.items():
        lines = [(f"{p.higher} − {p.lower}", *(_cell(p.estimates[column]) for column in columns)) for p in pairs]
        parts += [f"### {claim.text}", table_text(("difference", *columns), lines)]
    return "\n\n".join([*parts, "## How it is judged", RULE])


def _told(pairs: Sequence[Judged]) -> str:
    """The one difference, or the range of several."""
    if len(pairs) == 1:
        return str(pairs[0].estimates[OVER_ALL])
    means = [pair.estimates[OVER_ALL].mean for pair in pairs]
    return f"{min(means):+.2f} to {max(means):+.2f} points over {len(pairs)} pairs"


def _cell(estimate: Estimate) -> str:
    spread = "" if estimate.error is None else f" ± {estimate.error:.2f}"
    return f"{estimate.mean:+.2f}{spread}, {estimate.word}"


def _estimates(higher: str, lower: str, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    cases = list(dict.fromkeys(outcome.case for outcome in outcomes))
    by_case = {case: _differences(higher, lower, case, outcomes) for case in cases}
    found = {case.label: Estimate.of(list(by_seed.values())) for case, by_seed in by_case.items()}
    seeds = by_case[cases[0]]
    found[OVER_ALL] = Estimate.of([statistics.fmean(by_case[case][seed] for case in cases) for seed in seeds])
    return found


def _differences(higher: str, lower: str, case: Case, outcomes: Sequence[Outcome]) -> dict[int, float]:
    """In points, by seed."""
    high, low = (
        {o.seed: 100 * o.final_accuracy for o in outcomes if (o.case, o.method) == (case, name)} for name in (higher, lower)
    )
    return {seed: high[seed] - low[seed] for seed in high}
