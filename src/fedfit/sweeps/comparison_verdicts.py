"""Verdicts on the claims of a comparison, case by case and over all cases, from paired differences over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fedfit.sweeps.comparison import Claim, Comparison
from fedfit.sweeps.describe import table_text
from fedfit.sweeps.estimate import PAIRED, Estimate, joint_word
from fedfit.sweeps.rows import Row

OVER_ALL = "over all"

RULE = f"""\
A seed fixes the data, their spread over the devices, the ranks, the fleet and the initial head, so two methods are compared
seed by seed.
{PAIRED}
"Over all" takes each seed's mean difference over the cases, so it has as many differences as there are seeds. No allowance is
made for the number of claims: of twenty that are empty, one comes out decided.
"""


@dataclass(frozen=True)
class Judged:
    """A pair of a claim with its differences by column; columns are the labels of the cases, and ``OVER_ALL``."""

    higher: str
    lower: str
    estimates: dict[str, Estimate]


def judge_claim(claim: Claim, rows: Sequence[Row]) -> list[Judged]:
    """Judges the pairs of ``claim`` whose methods are both in ``rows``; ``rows`` must hold all seeds of both in each case."""
    methods = {row.line for row in rows}
    pairs = [(higher, lower) for higher, lower in claim.pairs if {higher, lower} <= methods]
    return [Judged(higher, lower, _estimates(higher, lower, rows)) for higher, lower in pairs]


def claim_word(judged: Sequence[Judged], column: str) -> str:
    """The verdict on all pairs of a claim in one column."""
    return joint_word(pair.estimates[column].word for pair in judged)


def verdicts_page(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The text of ``verdicts.md``: all claims by case and over all cases, then each claim's pairs."""
    judged = {claim: found for claim in comparison.claims if (found := judge_claim(claim, rows))}
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
        parts += [f"### {claim.text}", table_text(("difference", *columns), lines)]
    return "\n\n".join([*parts, "## How it is judged", RULE])


def _difference_text(pairs: Sequence[Judged]) -> str:
    """The difference of a single pair, or the range of several."""
    if len(pairs) == 1:
        return str(pairs[0].estimates[OVER_ALL])
    means = [pair.estimates[OVER_ALL].mean for pair in pairs]
    return f"{min(means):+.2f} to {max(means):+.2f} points over {len(pairs)} pairs"


def _cell(estimate: Estimate) -> str:
    spread = "" if estimate.error is None else f" ± {estimate.error:.2f}"
    return f"{estimate.mean:+.2f}{spread}, {estimate.word}"


def _estimates(higher: str, lower: str, rows: Sequence[Row]) -> dict[str, Estimate]:
    cases = list(dict.fromkeys(row.panel for row in rows))
    by_case = {case: _differences(higher, lower, case, rows) for case in cases}
    found = {case: Estimate.of(list(by_seed.values())) for case, by_seed in by_case.items()}
    seeds = by_case[cases[0]]
    found[OVER_ALL] = Estimate.of([statistics.fmean(by_case[case][seed] for case in cases) for seed in seeds])
    return found


def _differences(higher: str, lower: str, case: str, rows: Sequence[Row]) -> dict[int, float]:
    """Seed → difference in points of accuracy."""
    high, low = (
        {row.seed: 100 * row.final for row in rows if (row.panel, row.line) == (case, name)} for name in (higher, lower)
    )
    return {seed: high[seed] - low[seed] for seed in high}
