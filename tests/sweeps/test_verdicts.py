"""Verdicts on made-up rows, with every outcome of every claim."""

import pytest

from fedfit.sweeps.estimate import FAILS, HOLDS, NOISE, Estimate
from fedfit.sweeps.rows import Row
from fedfit.sweeps.verdicts import RULE, judge, verdicts_text
from tests.sweeps.conftest import row

WOBBLE = (0.0, 0.01, -0.01)
"""Added to every point of a seed: a large deviation that cancels in paired differences."""


def rows(figure: str, values: dict[tuple[str, float | None], tuple[float, ...]], untrained: float = 0.25) -> list[Row]:
    """Rows with these final accuracies, by point and seed."""
    return [
        row(line, x, seed, value + WOBBLE[seed], untrained, figure)
        for (line, x), by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


def words(figure: str, given: list[Row]) -> dict[str, str]:
    return {verdict.claim: verdict.word for verdict in judge(figure, given)}


def flat(value: float) -> tuple[float, float, float]:
    return (value, value, value)


def test_an_estimate_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, standard error 1/√3 = 0.577; t at 2 degrees is 4.303, so the margin is 2.484 > 2."""
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.error == pytest.approx(3**-0.5)
    assert found.word == NOISE
    assert str(found) == "+2.00 points (± 0.58, 3 seeds)"


@pytest.mark.parametrize(("shift", "word"), [(2.4, NOISE), (2.5, HOLDS), (-2.4, NOISE), (-2.5, FAILS)])
def test_the_limit_lies_at_t_standard_errors(shift: float, word: str) -> None:
    """As above, the margin of −1, 0, 1 is 2.484."""
    assert Estimate.of([shift - 1, shift, shift + 1]).word == word


def test_two_seeds_have_one_degree_of_freedom() -> None:
    """2 and 3: s/√2 = 0.5, and 12.706 · 0.5 is above 2.5. 2.45 and 2.55: 12.706 · 0.05 = 0.64 is below."""
    assert Estimate.of([2.0, 3.0]).word == NOISE
    assert Estimate.of([2.45, 2.55]).word == HOLDS


def test_one_seed_is_within_the_noise() -> None:
    found = Estimate.of([50.0])
    assert (found.word, str(found)) == (NOISE, "+50.00 points (one seed)")


def test_placement() -> None:
    """Differences of 3 points, of 0 with a scatter of 1 point, and of the wrong sign."""
    given = rows(
        "fig2",
        {
            ("all layers", None): flat(0.90),
            ("last 3", None): flat(0.87),
            ("middle 3", None): (0.86, 0.87, 0.88),
            ("first 3", None): flat(0.92),
        },
    )
    found = words("fig2", given)
    assert found["all layers above last 3"] == HOLDS
    assert found["last 3 above middle 3"] == NOISE
    assert found["middle 3 above first 3"] == FAILS


@pytest.mark.parametrize(
    ("at_1", "at_32", "at_128", "rises", "falls"),
    [
        (flat(0.80), flat(0.85), flat(0.83), HOLDS, HOLDS),
        (flat(0.85), flat(0.80), flat(0.83), FAILS, FAILS),
        ((0.80, 0.81, 0.82), flat(0.81), (0.80, 0.81, 0.82), NOISE, NOISE),
    ],
)
def test_rank(at_1: tuple[float, ...], at_32: tuple[float, ...], at_128: tuple[float, ...], rises: str, falls: str) -> None:
    given = rows("fig3", {("last 3", 1): at_1, ("last 3", 32): at_32, ("last 3", 128): at_128})
    found = words("fig3", given)
    assert found["rises with the rank up to 32"] == rises
    assert found["falls beyond rank 32: 32 above 128"] == falls


def test_ranks_beyond_the_best_do_not_count_for_the_rise() -> None:
    """80, 82, 84 % at 1, 2, 4: 2 points per doubling; the drop to 10 % at 128 is ignored."""
    given = rows("fig3", {("a", 1): flat(0.8), ("a", 2): flat(0.82), ("a", 4): flat(0.84), ("a", 128): flat(0.1)})
    (verdict,) = [verdict for verdict in judge("fig3", given) if verdict.claim.startswith("rises")]
    assert verdict.numbers.startswith("a doubling gives +2.00 points")
    assert verdict.numbers.endswith("80.00 % at 1, 84.00 % at 4; 2 of 2 steps go up")


def policies(joint: dict[float, tuple[float, ...]], random: dict[float, tuple[float, ...]]) -> list[Row]:
    lines = {"joint": joint, "random frequency": random}
    return rows("fig4", {(line, x): values for line, by_x in lines.items() for x, values in by_x.items()})


@pytest.mark.parametrize(
    ("random_at_10", "here", "everywhere"),
    [(flat(0.80), HOLDS, HOLDS), ((0.84, 0.85, 0.86), NOISE, NOISE), (flat(0.90), FAILS, FAILS)],
)
def test_joint_above_random(random_at_10: tuple[float, ...], here: str, everywhere: str) -> None:
    given = policies({5: flat(0.80), 10: flat(0.85)}, {5: flat(0.70), 10: random_at_10})
    found = words("fig4", given)
    assert found["joint above random frequency at 5"] == HOLDS
    assert found["joint above random frequency at 10"] == here
    assert found["joint above random frequency everywhere"] == everywhere
    assert found["rises with the limit, joint"] == HOLDS


def test_accuracy_that_falls_with_the_limit() -> None:
    given = policies({5: flat(0.85), 10: flat(0.80)}, {5: flat(0.6), 10: flat(0.6)})
    found = words("fig4", given)
    assert found["rises with the limit, joint"] == FAILS
    assert found["rises with the limit, random frequency"] == NOISE


@pytest.mark.parametrize(
    ("untrained", "word"),
    [
        ((0.24, 0.25, 0.26), HOLDS),
        ((0.29, 0.31, 0.27), HOLDS),
        ((0.40, 0.40, 0.41), FAILS),
        ((0.05, 0.06, 0.05), FAILS),
        ((0.1, 0.3, 0.6), NOISE),
    ],
)
def test_untrained_at_chance(untrained: tuple[float, ...], word: str) -> None:
    """Four classes: chance is 25 %. The means 25.0 and 29.0 lie within 5 points of it.

    40.3 and 5.3 do not, by many standard errors; the last, 33.3, has a standard error of 14.5.
    """
    given = [row("a", x, seed, 0.9, value) for x in (1, 2) for seed, value in enumerate(untrained)]
    assert words("fig3", given)["the untrained model is at chance, 25.0 %"] == word


@pytest.mark.parametrize(("worst", "word"), [(0.35, HOLDS), (0.25, NOISE), (0.15, FAILS)])
def test_anything_fine_tuned_is_above_the_untrained(worst: float, word: str) -> None:
    """One point at 90 %, one at ``worst``, against an untrained model at 25 %; a scatter of 1 point."""
    given = rows("fig3", {("a", 1): flat(0.9), ("a", 2): flat(worst)})
    assert words("fig3", given)["anything fine-tuned is above the untrained model"] == word


def test_the_page_has_a_line_a_claim_and_the_rule() -> None:
    given = rows("fig3", {("a", 1): flat(0.8), ("a", 32): flat(0.85), ("a", 128): flat(0.83)})
    text = verdicts_text("fig3", given)
    for verdict in judge("fig3", given):
        assert f"| {verdict.claim} | {verdict.numbers} | {verdict.word} |" in text
    assert RULE in text
    assert "within 5 points" in text
