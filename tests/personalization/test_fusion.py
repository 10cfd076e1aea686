"""The search over fusion weights against brute force, and the fused adapter against its products."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfit.core.update import named_tensors
from fedfit.personalization.fusion import BOUND, Weights, fuse, search
from tests.builders import random_update


def bowl(first: float, second: float, tilt: float = 0.3) -> "Counted":
    """A convex loss with its least point at ``(first, second)``."""
    return Counted(lambda w: (w[0] - first) ** 2 + (w[1] - second) ** 2 + tilt * (w[0] - first) * (w[1] - second))


class Counted:
    """A loss that remembers where it was asked for."""

    def __init__(self, loss_of: "object") -> None:
        self.loss_of, self.asked = loss_of, list[Weights]()

    def __call__(self, weights: Weights) -> float:
        self.asked.append(weights)
        return float(self.loss_of(weights))  # type: ignore[operator]


def brute_force(loss: Counted, penalty: float, *, mean: bool) -> float:
    """The least objective over a fine grid, of the points that are no worse than either adapter alone."""
    grid, best = np.linspace(-BOUND, BOUND, 121), math.inf
    limit = min(loss.loss_of((1.0, 0.0)), loss.loss_of((0.0, 1.0)))  # type: ignore[operator]
    for first in grid:
        for second in grid:
            value = loss.loss_of((first, second))  # type: ignore[operator]
            if value <= limit:
                size = abs(first) + abs(second)
                best = min(best, value + penalty * (size / 2 if mean else size))
    return best


@pytest.mark.parametrize("optimizer", ["nelder_mead", "cobyqa"])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("least", [(0.4, 0.7), (-0.6, 1.2), (2.0, 0.2), (0.0, 0.0)])
def test_the_least_objective_is_found(least: Weights, mean: bool, optimizer: str) -> None:
    loss = bowl(*least)
    found = search(loss, 200, 0.05, mean=mean, optimizer=optimizer)
    size = abs(found.weights[0]) + abs(found.weights[1])
    objective = found.loss + 0.05 * (size / 2 if mean else size)
    assert objective == pytest.approx(brute_force(loss, 0.05, mean=mean), abs=2e-3)
    assert all(abs(weight) <= BOUND for point in loss.asked for weight in point)


@given(
    budget=st.integers(2, 60),
    seed=st.integers(0, 2**32 - 1),
    penalty=st.sampled_from([0.0, 0.05, 3.0]),
    optimizer=st.sampled_from(["nelder_mead", "cobyqa"]),
    share=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=80, deadline=None)
def test_never_worse_than_the_better_alone(budget: int, seed: int, penalty: float, optimizer: str, share: float) -> None:
    """Of any loss, however rough and wherever it is not a number; and never more points than the budget."""
    rng = np.random.default_rng(seed)

    def rough(weights: Weights) -> float:
        corner = weights in ((1.0, 0.0), (0.0, 1.0))
        return math.nan if not corner and rng.random() < share else float(rng.exponential())

    values: dict[Weights, float] = {}
    loss = Counted(lambda weights: values.setdefault(weights, rough(weights)))
    found = search(loss, budget, penalty, mean=False, optimizer=optimizer)
    assert found.loss == values[found.weights] <= min(values[1.0, 0.0], values[0.0, 1.0])
    assert len(loss.asked) == len(set(loss.asked)) == found.evaluations <= budget


def test_a_strong_penalty_does_not_buy_a_worse_loss() -> None:
    """At (0, 0) the penalised loss would be 1.1, at (0, 1) it is 0.9 + 0.5 = 1.4: the loss alone forbids the former."""
    found = search(Counted(lambda w: 1.1 - 0.2 * w[1] + 0.2 * abs(w[0])), 60, 0.5, mean=False)
    assert found.loss <= 1.1 - 0.2
    assert found.weights[1] >= 1.0


def test_a_loss_that_is_never_a_number_falls_back() -> None:
    found = search(lambda weights: math.nan, 10, 0.05, mean=False)
    assert found.weights == (0.0, 1.0)
    assert found.failed == "the few-shot loss is not finite"


def test_one_adapter_that_is_broken_leaves_the_other() -> None:
    found = search(lambda w: math.nan if w[0] else 2.0 - w[1], 30, 0.0, mean=False)
    assert found.failed == ""
    assert found.weights[0] == 0
    assert found.weights[1] == pytest.approx(BOUND, abs=0.2)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("ranks", [(2, 2), (2, 4), (4, 2)])
def test_corners_are_the_adapters_themselves(ranks: tuple[int, int], products: bool) -> None:
    personal, shared = random_update(1, rank=ranks[0], scale=4 / ranks[0]), random_update(2, rank=ranks[1], scale=4 / ranks[1])
    for weights, alone in (((1.0, 0.0), personal), ((0.0, 1.0), shared)):
        fused = fuse(personal, shared, weights, products=products)
        for name, pair in fused.factors.items():
            expected = alone.factors[name].scale * alone.factors[name].b @ alone.factors[name].a
            torch.testing.assert_close(pair.scale * pair.b @ pair.a, expected)
        for name, tensor in fused.groups["head"].items():
            assert torch.equal(tensor, alone.groups["head"][name])
    if ranks == (2, 2):
        fused = fuse(personal, shared, (0.0, 1.0), products=False)
        assert all(torch.equal(tensor, named_tensors(shared)[name]) for name, tensor in named_tensors(fused).items())


@pytest.mark.parametrize("ranks", [(2, 2), (1, 4)])
def test_products_are_summed_exactly(ranks: tuple[int, int]) -> None:
    personal, shared = random_update(1, rank=ranks[0], scale=3.0), random_update(2, rank=ranks[1], scale=0.5)
    fused = fuse(personal, shared, (0.7, -1.2), products=True)
    for name, pair in fused.factors.items():
        p, s = personal.factors[name], shared.factors[name]
        assert len(pair.a) == sum(ranks)
        torch.testing.assert_close(pair.scale * pair.b @ pair.a, 0.7 * p.scale * p.b @ p.a - 1.2 * s.scale * s.b @ s.a)


def test_factors_are_summed_as_the_paper_has_it() -> None:
    personal, shared = random_update(1), random_update(2)
    fused = fuse(personal, shared, (0.7, -1.2), products=False)
    for name, tensor in named_tensors(fused).items():
        torch.testing.assert_close(tensor, 0.7 * named_tensors(personal)[name] - 1.2 * named_tensors(shared)[name])
