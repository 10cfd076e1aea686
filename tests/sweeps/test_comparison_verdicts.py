"""Verdicts on claims, on made-up accuracies."""

from dataclasses import replace

import pytest

from fedfit.sweeps.comparison import Case, Claim, Comparison, Method
from fedfit.sweeps.comparison_verdicts import OVER_ALL, claim_word, judge_claim, rule, verdicts_page
from fedfit.sweeps.estimate import FAILS, HOLDS, NOISE
from fedfit.sweeps.metric import Metric
from fedfit.sweeps.rows import Row
from tests.sweeps.test_comparison_rows import made_up_run, outcome

EASY, HARD = Case("ag_news", 0.5), Case("ag_news", 0.1)
WOBBLE = (0.0, 0.05, -0.05)
"""Added to every method of a seed: a large deviation that cancels in paired differences."""


def rows(values: dict[tuple[str, Case], tuple[float, ...]]) -> list[Row]:
    """Rows with these final accuracies, by method, case and seed."""
    return [
        outcome(seed, method, case=case, run=made_up_run((0.25, value + WOBBLE[seed])))
        for (method, case), by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


def flat(value: float) -> tuple[float, ...]:
    return (value, value, value)


def claim(*pairs: tuple[str, str]) -> Claim:
    return Claim("a claim", "a table", pairs)


@pytest.mark.parametrize(("low", "word"), [(flat(0.7), HOLDS), (flat(0.9), FAILS), ((0.7, 0.9, 0.8), NOISE)])
def test_one_pair_in_one_case(low: tuple[float, ...], word: str) -> None:
    found = judge_claim(claim(("a", "b")), rows({("a", EASY): flat(0.8), ("b", EASY): low}), Metric())
    assert claim_word(found, EASY.label) == claim_word(found, OVER_ALL) == word


@pytest.mark.parametrize(("margin", "word"), [(0.5, FAILS), (1.0, NOISE), (1.5, HOLDS)])
def test_worse_by_less_than_a_margin(margin: float, word: str) -> None:
    """a − b is −1.0, −1.1 and −0.9 points: m = −1, s/√n = 0.1/√3 = 0.058, t·s/√n = 4.303 · 0.058 = 0.25. With the margin m is
    −0.5, 0 and 0.5.
    """
    given = rows({("a", EASY): (0.79, 0.789, 0.791), ("b", EASY): flat(0.8)})
    found = judge_claim(replace(claim(("a", "b")), margin=margin), given, Metric())
    assert claim_word(found, OVER_ALL) == word
    assert found[0].estimates[OVER_ALL].mean == pytest.approx(-1), "the difference itself is shown"


def test_over_all_is_the_mean_over_the_cases_seed_by_seed() -> None:
    """a − b in points: easy 10, 12, 14; hard −2, −4, −6. Each seed's mean is 4: 4 points with a standard error of 0."""
    given = rows(
        {
            ("a", EASY): (0.80, 0.82, 0.84), ("b", EASY): flat(0.7),
            ("a", HARD): (0.68, 0.66, 0.64), ("b", HARD): flat(0.7),
        }
    )  # fmt: skip
    (pair,) = judge_claim(claim(("a", "b")), given, Metric())
    means = {column: estimate.mean for column, estimate in pair.estimates.items()}
    assert means == pytest.approx({EASY.label: 12, HARD.label: -4, OVER_ALL: 4})
    assert pair.estimates[OVER_ALL].error == pytest.approx(0, abs=1e-9)
    assert (pair.estimates[OVER_ALL].n, pair.estimates[OVER_ALL].word) == (3, HOLDS)


@pytest.mark.parametrize(("second", "word"), [(flat(0.7), HOLDS), ((0.7, 0.8, 0.9), NOISE), (flat(0.9), FAILS)])
def test_a_claim_of_two_pairs(second: tuple[float, ...], word: str) -> None:
    """a is above b by 20 points in every seed, so the comparison with c decides."""
    given = rows({("a", EASY): flat(0.8), ("b", EASY): flat(0.6), ("c", EASY): second})
    assert claim_word(judge_claim(claim(("a", "b"), ("a", "c")), given, Metric()), EASY.label) == word


def test_a_pair_that_was_not_run_is_left_out() -> None:
    given = rows({("a", EASY): flat(0.8), ("b", EASY): flat(0.6)})
    assert [(pair.higher, pair.lower) for pair in judge_claim(claim(("a", "b"), ("a", "z")), given, Metric())] == [("a", "b")]


def test_the_page_has_claims_pairs_and_the_rule() -> None:
    given = rows({("a", EASY): flat(0.8), ("b", EASY): flat(0.7), ("c", EASY): flat(0.9)})
    claims = (Claim("a above b", "table 1", (("a", "b"),)), Claim("a above both", "", (("a", "b"), ("a", "c"))))
    methods = tuple(Method(name, ()) for name in "abc")
    page = verdicts_page(Comparison("c", "C", "t", "", methods, (EASY,), (1e-3,), 0.5, 9, {}, claims), given)
    assert f"| a above b | table 1 | +10.00 points (± 0.00, 3 seeds) | {HOLDS} | {HOLDS} |" in page
    assert f"| a above both |  | -10.00 to +10.00 points over 2 pairs | {FAILS} | {FAILS} |" in page
    assert f"| a − c | -10.00 ± 0.00, {FAILS} | -10.00 ± 0.00, {FAILS} |" in page
    assert rule(Metric()) in page


@pytest.mark.parametrize(("low", "word"), [(flat(0.9), HOLDS), (flat(0.7), FAILS), ((0.7, 0.9, 0.8), NOISE)])
def test_the_lower_of_two_losses_is_the_better(low: tuple[float, ...], word: str) -> None:
    found = judge_claim(claim(("a", "b")), rows({("a", EASY): flat(0.8), ("b", EASY): low}), Metric("loss"))
    assert claim_word(found, OVER_ALL) == word


def test_the_page_of_a_loss_has_its_unit_and_its_direction() -> None:
    given = rows({("a", EASY): flat(0.8), ("b", EASY): flat(0.9), ("c", EASY): flat(0.7)})
    claims = (Claim("a above b", "table 1", (("a", "b"),)), Claim("a above both", "", (("a", "b"), ("a", "c"))))
    methods = tuple(Method(name, ()) for name in "abc")
    made = Comparison("c", "C", "t", "", methods, (EASY,), (1e-3,), 0.5, 9, {}, claims, metric=Metric("loss"))
    page = verdicts_page(made, given)
    assert f"| a above b | table 1 | -0.1000 nats (± 0.0000, 3 seeds) | {HOLDS} | {HOLDS} |" in page
    assert f"| a above both |  | -0.1000 to +0.1000 nats over 2 pairs | {FAILS} | {FAILS} |" in page
    assert f"| a − c | +0.1000 ± 0.0000, {FAILS} |" in page
    assert "a claim holds when m lies below −t·s/√n, for lower is better" in page
    assert "Differences are in nats of test loss after the last round" in page


def test_a_claim_may_be_about_another_measure() -> None:
    """Bytes of a whole run, in MB, and another metric; both are columns of a row, and fewer bytes are better."""
    given = [
        replace(row, values={**row.values, "uplink_bytes": 3e6 if row.line == "a" else 5e6, "final_macro_f1": 0.1 * row.seed})
        for row in rows({("a", EASY): flat(0.8), ("b", EASY): flat(0.9)})
    ]
    (pair,) = judge_claim(Claim("fewer", "", (("a", "b"),), "uplink_bytes"), given, Metric())
    assert pair.estimates[EASY.label].mean == pytest.approx(-2.0)
    assert pair.estimates[EASY.label].word == HOLDS
    (pair,) = judge_claim(Claim("alike", "", (("a", "b"),), "macro_f1"), given, Metric())
    assert (pair.estimates[EASY.label].mean, pair.estimates[EASY.label].word) == (0, NOISE)
    claims = (Claim("fewer bytes", "t", (("a", "b"),), "uplink_bytes"),)
    methods = tuple(Method(name, ()) for name in "ab")
    page = verdicts_page(Comparison("c", "C", "t", "", methods, (EASY,), (1e-3,), 0.5, 9, {}, claims), given)
    assert f"| fewer bytes | t | -2.00 MB up (± 0.00, 3 seeds) | {HOLDS} | {HOLDS} |" in page
    assert "In MB up of the whole run, where lower is better." in page
