"""Verdicts on the paper's claims, from paired differences over the seeds; ``RULE`` states how."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedfit.sweeps.estimate import FAILS, HOLDS, NOISE, Estimate, joint_word, paired_rule
from fedfit.sweeps.figures import MAX_RANK, PLACEMENTS, POLICIES
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rows import Row

RULE = f"""\
A seed fixes the data, the fleet and the initial head, so two points are compared seed by seed.
{paired_rule(Metric())}
A slope is that of a straight line through the points of a seed, over the logarithm of x.
"""

CHANCE_MARGIN = 5.0
"""Largest mean distance of the untrained model from chance, in points of accuracy. A new head guesses, but with a bias."""


@dataclass(frozen=True)
class Verdict:
    """A claim, the numbers that decide it, and ``holds``, ``does not hold`` or ``within the noise``."""

    claim: str
    numbers: str
    word: str


def judge(figure: str, rows: Sequence[Row]) -> list[Verdict]:
    """The paper's claims on ``figure``. ``rows`` must hold every seed at every point."""
    return [*_untrained(rows), *_CLAIMS[figure](rows)]


def verdicts_text(figure: str, rows: Sequence[Row]) -> str:
    """The verdicts as a page in Markdown, with the rule that decides them."""
    lines = ["| claim | numbers | verdict |", "|---|---|---|"]
    lines += [f"| {verdict.claim} | {verdict.numbers} | {verdict.word} |" for verdict in judge(figure, rows)]
    margin = (
        f"The untrained model is at chance when its mean lies within {CHANCE_MARGIN:g} points of it. When it lies further\n"
        "away, the claim does not hold, unless t standard errors reach chance; then it is within the noise.\n"
    )
    head, table = f"# {figure}: the paper's claims, and the findings here", "\n".join(lines)
    return f"{head}\n\n{table}\n\n## How it is judged\n\n{RULE}\n{margin}"


def _untrained(rows: Sequence[Row]) -> list[Verdict]:
    """Verdicts on the untrained model: at chance (24.8 % with four classes in the paper), and below anything fine-tuned."""
    verdicts = []
    if rows[0].chance is not None:
        chance = 100 * rows[0].chance
        seeds = sorted({row.seed for row in rows})
        off = Estimate.of([100 * _mean(row.untrained for row in rows if row.seed == seed) - chance for seed in seeds])
        word = HOLDS if abs(off.mean) <= CHANCE_MARGIN else NOISE if off.word == NOISE else FAILS
        verdicts.append(Verdict(f"the untrained model is at chance, {chance:.1f} %", f"{chance + off.mean:.1f} %: {off}", word))
    points = list(dict.fromkeys((row.line, row.x) for row in rows))
    worst = min(points, key=lambda point: _mean(_at(rows, *point).values()))
    gain = Estimate.of([row.final * 100 - row.untrained * 100 for row in rows if (row.line, row.x) == worst])
    verdicts.append(Verdict("anything fine-tuned is above the untrained model", f"worst point: {gain}", gain.word))
    return verdicts


def _placement(rows: Sequence[Row]) -> list[Verdict]:
    lines = [line for line in PLACEMENTS if any(row.line == line for row in rows)]
    return [_above(f"{high} above {low}", _at(rows, high, None), _at(rows, low, None)) for high, low in pairwise(lines)]


def _rank(rows: Sequence[Row]) -> list[Verdict]:
    line, ranks = rows[0].line, sorted({row.x for row in rows if row.x is not None})
    verdicts = [_rises(f"rises with the rank up to {MAX_RANK}", rows, line, [rank for rank in ranks if rank <= MAX_RANK])]
    if MAX_RANK in ranks and ranks[-1] > MAX_RANK:
        highest = ranks[-1]
        claim = f"falls beyond rank {MAX_RANK}: {MAX_RANK} above {highest:g}"
        verdicts.append(_above(claim, _at(rows, line, MAX_RANK), _at(rows, line, highest)))
    return verdicts


def _limit(rows: Sequence[Row]) -> list[Verdict]:
    joint, random = POLICIES
    limits = sorted({row.x for row in rows if row.x is not None})
    verdicts = [_rises(f"rises with the limit, {line}", rows, line, limits) for line in POLICIES]
    each = [_above(f"{joint} above {random} at {x:g}", _at(rows, joint, x), _at(rows, random, x)) for x in limits]
    words = [verdict.word for verdict in each]
    counts = ", ".join(f"{name} at {words.count(name)}" for name in (HOLDS, NOISE, FAILS))
    everywhere = Verdict(f"{joint} above {random} everywhere", f"of {len(limits)} limits: {counts}", joint_word(words))
    return [*verdicts, everywhere, _above(f"{joint} above {random} on average", *_averages(rows)), *each]


_CLAIMS: dict[str, Callable[[Sequence[Row]], list[Verdict]]] = {
    "fig2": _placement,
    "fig3": _rank,
    "fig4": _limit,
    "fig5": _limit,
}


def _rises(claim: str, rows: Sequence[Row], line: str, xs: Sequence[float]) -> Verdict:
    """Verdict by the slope of each seed's accuracy over log2 x; the numbers also give the ends and the rising steps."""
    if len(xs) < 2:
        return Verdict(claim, "one point only", NOISE)
    by_x = [_at(rows, line, x) for x in xs]
    slope = Estimate.of([_slope([math.log2(x) for x in xs], [at[seed] for at in by_x]) for seed in by_x[0]])
    means = [_mean(at.values()) for at in by_x]
    up = sum(after > before for before, after in pairwise(means))
    steps = f"{means[0]:.2f} % at {xs[0]:g}, {means[-1]:.2f} % at {xs[-1]:g}; {up} of {len(means) - 1} steps go up"
    return Verdict(claim, f"a doubling gives {slope}; {steps}", slope.word)


def _above(claim: str, high: dict[int, float], low: dict[int, float]) -> Verdict:
    difference = Estimate.of([high[seed] - low[seed] for seed in high])
    return Verdict(claim, f"{_mean(high.values()):.2f} % against {_mean(low.values()):.2f} %: {difference}", difference.word)


def _averages(rows: Sequence[Row]) -> tuple[dict[int, float], dict[int, float]]:
    """Seed → mean accuracy over the limits, in percent, for both policies."""
    seeds = sorted({row.seed for row in rows})
    joint, random = (
        {seed: 100 * _mean(row.final for row in rows if (row.line, row.seed) == (line, seed)) for seed in seeds}
        for line in POLICIES
    )
    return joint, random


def _at(rows: Sequence[Row], line: str, x: float | None) -> dict[int, float]:
    """Seed → final accuracy in percent, at one point."""
    return {row.seed: 100 * row.final for row in rows if (row.line, row.x) == (line, x)}


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    return statistics.linear_regression(xs, ys).slope


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
