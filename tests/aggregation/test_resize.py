import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfit.aggregation.low_rank import nearest_factors
from fedfit.aggregation.resize import resize_factors, resize_update
from fedfit.core.update import AdapterSize, Factors
from fedfit.settings import AdapterSettings
from tests.builders import random_update, same_bits

OUTPUTS, INPUTS = 11, 13


def pair(rank: int, scale: float = 2.0, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, INPUTS, generator=generator), torch.randn(OUTPUTS, rank, generator=generator), scale)


def product(factors: Factors) -> Tensor:
    """The dense update that the pair stands for, ``(output, input)`` in float64."""
    matrix: Tensor = factors.scale * torch.mm(factors.b.double(), factors.a.double())
    return matrix


def dense_truncation(matrix: Tensor, rank: int) -> Tensor:
    """The slow twin: the SVD of the whole matrix."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    return nearest


def distance(left: Tensor, right: Tensor) -> float:
    """Relative to the size of ``right``."""
    return float((left - right).norm() / right.norm())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["alpha/r", "alpha/sqrt(r)", "constant"]), st.integers(0, 99))
def test_the_product_is_the_dense_truncation_at_any_rank_and_scale(old: int, new: int, scaling: str, seed: int) -> None:
    sizes = AdapterSettings(rank=8, alpha=16.0, scaling=scaling).size
    factors = pair(old, sizes(old).scale, seed)
    resized = resize_factors(factors, sizes(new), seed=7)
    assert (resized.a.shape, resized.b.shape, resized.scale) == ((new, INPUTS), (OUTPUTS, new), sizes(new).scale)
    assert (resized.a.dtype, resized.b.dtype) == (torch.float32, torch.float32)
    # A product whose factors are rounded to float32 (2^-24 = 6e-8 each) is off by about 1e-7.
    assert distance(product(resized), dense_truncation(product(factors), new)) < 1e-6


@pytest.mark.parametrize("scale", [16 / 8, 16 / math.sqrt(8), 0.3])
def test_growing_keeps_what_was_there_and_adds_rows_as_peft_draws_them(scale: float) -> None:
    inputs = 40_000
    factors = Factors(torch.randn(2, inputs), torch.randn(OUTPUTS, 2), 2.0)
    grown = resize_factors(factors, AdapterSize(5, scale), seed=7)
    assert torch.equal(grown.a[:2], factors.a)
    assert not grown.b[:, 2:].any()
    torch.testing.assert_close(grown.b[:, :2] * scale, factors.b * 2.0, rtol=2e-7, atol=0)
    fresh = grown.a[2:]
    # Uniform within ±1/√k: the extremes of 3·40,000 draws come within 1 % of it, and the variance is a third of its square,
    # with a relative deviation of √(0.8 / 120,000) = 0.0026.
    bound = 1 / math.sqrt(inputs)
    assert 0.99 * bound < float(fresh.max()) <= bound
    assert -bound <= float(fresh.min()) < -0.99 * bound
    assert float(fresh.var()) == pytest.approx(bound**2 / 3, rel=5 * 0.0026)
    assert abs(float(fresh.mean())) < 5 * bound / math.sqrt(3 * 3 * inputs)


def test_the_new_directions_get_a_gradient_and_would_not_with_zeros_in_both() -> None:
    grown = resize_factors(pair(2), AdapterSize(4, 1.0), seed=7)

    def b_gradient(a: Tensor) -> Tensor:
        b = grown.b.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((b @ a).sum() ** 2, b)
        return gradient

    assert (b_gradient(grown.a)[:, 2:] != 0).all()
    assert not b_gradient(torch.cat([grown.a[:2], torch.zeros(2, INPUTS)]))[:, 2:].any()


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 6])
def test_down_a_has_orthogonal_rows_of_its_usual_size_and_b_the_update(rank: int) -> None:
    factors = pair(6, scale=0.5)
    resized = resize_factors(factors, AdapterSize(rank, 3.0), seed=7) if rank < 6 else refactored(factors, 6)
    size = float(factors.a.double().square().sum() / 6)  # the mean squared norm of a row
    torch.testing.assert_close(resized.a.double() @ resized.a.double().T, torch.eye(rank).double() * size, rtol=1e-6, atol=1e-5)
    # The columns of B are orthogonal too: U·Σ up to a factor, largest first.
    values = torch.linalg.svdvals(product(factors))[:rank]
    gram = resized.b.double().T @ resized.b.double()
    torch.testing.assert_close(gram, torch.diag((values / (resized.scale * math.sqrt(size))) ** 2), rtol=1e-5, atol=1e-5)


def refactored(factors: Factors, rank: int) -> Factors:
    return nearest_factors(factors.b.double() * factors.scale, factors.a.double(), AdapterSize(rank, 3.0), factors)


def test_the_signs_are_fixed() -> None:
    """The largest entry of each row of A is positive, whichever signs the factors came with."""
    factors = pair(5)
    flipped = Factors(-factors.a, -factors.b, factors.scale)
    first, second = (resize_factors(one, AdapterSize(3, 1.0), seed=7) for one in (factors, flipped))
    assert all(row[row.abs().argmax()] > 0 for row in first.a)
    torch.testing.assert_close(second.a, first.a, rtol=0, atol=1e-5)
    torch.testing.assert_close(second.b, first.b, rtol=0, atol=1e-5)


def test_a_product_of_low_rank_survives_the_way_down_and_up() -> None:
    low = pair(3, scale=4.0)
    high = resize_factors(low, AdapterSize(8, 1.5), seed=7)
    again = resize_factors(high, AdapterSize(3, 4.0), seed=7)
    assert distance(product(high), product(low)) < 1e-5
    assert distance(product(again), product(low)) < 1e-5
    lower = resize_factors(low, AdapterSize(2, 6.0), seed=7)
    assert distance(product(resize_factors(lower, AdapterSize(8, 1.5), seed=7)), dense_truncation(product(low), 2)) < 1e-5


def in_space_of(rows: Tensor, space: Tensor) -> bool:
    basis, _ = torch.linalg.qr(space.double().T)
    rows = rows.double()
    return distance((rows @ basis) @ basis.T, rows) < 1e-5


@pytest.mark.parametrize("learned", [0, 1, 2])
def test_directions_without_an_update_keep_rows_of_the_old_space_beside_zero_columns(learned: int) -> None:
    factors = pair(6)
    factors.b[:, learned:] = 0  # all of B at the start of a run, fresh columns after growth
    lower = resize_factors(factors, AdapterSize(4, 2.0), seed=7)
    assert not lower.b[:, learned:].any()
    assert lower.b[:, :learned].any() or learned == 0
    assert in_space_of(lower.a, factors.a)
    size = float(factors.a.square().sum() / 6)
    torch.testing.assert_close(lower.a @ lower.a.T, torch.eye(4) * size, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product(lower), product(factors), rtol=1e-5, atol=1e-5)


def test_of_an_untrained_adapter_the_largest_rows_stay() -> None:
    """B = 0 and orthogonal rows of norms 1, 5, 3, 0: the two largest, at the root of (1 + 25 + 9) / 4."""
    a = torch.diag(torch.tensor([1.0, 5.0, 3.0, 0.0]))
    lower = resize_factors(Factors(a, torch.zeros(4, 4), 2.0), AdapterSize(2, 4.0), seed=7)
    size = math.sqrt(35 / 4)
    torch.testing.assert_close(lower.a, torch.tensor([[0, size, 0, 0], [0, 0, size, 0]]))
    assert not lower.b.any()


def test_with_nothing_to_keep_there_is_still_something_to_learn_in() -> None:
    """A = 0 and B = 0 could never learn: rows of the size that PEFT's A starts with, √(k · (1/√k)²/3) = √(1/3)."""
    zero = Factors(torch.zeros(4, INPUTS), torch.zeros(OUTPUTS, 4), 2.0)
    lower = resize_factors(zero, AdapterSize(2, 4.0), seed=7)
    torch.testing.assert_close(lower.a @ lower.a.T, torch.eye(2) / 3)
    assert not lower.b.any()


def test_rows_that_say_the_same_are_made_up_for() -> None:
    """A of rank 1 cannot fill two directions; the second is noise, as large as the first and orthogonal to it."""
    factors = Factors(torch.ones(3, INPUTS), torch.ones(OUTPUTS, 3), 2.0)
    lower = resize_factors(factors, AdapterSize(2, 2.0), seed=7)
    torch.testing.assert_close(lower.a @ lower.a.T, torch.eye(2) * INPUTS, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(product(lower), product(factors))


def test_the_same_size_is_the_same_object_and_another_scale_changes_b_alone() -> None:
    factors = pair(3, scale=2.0)
    assert resize_factors(factors, AdapterSize(3, 2.0), seed=7) is factors
    rescaled = resize_factors(factors, AdapterSize(3, 0.5), seed=7)
    assert torch.equal(rescaled.a, factors.a)
    assert torch.equal(rescaled.b, factors.b * 4)  # a power of two: exact
    assert rescaled.scale == 0.5


def test_rank_0_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="rank 0"):
        resize_factors(pair(3), AdapterSize(0, 1.0), seed=7)


def test_old_factors_stay_as_they_were() -> None:
    for rank in (1, 3, 6):
        factors = pair(3)
        resized = resize_factors(factors, AdapterSize(rank, 1.0), seed=7)
        resized.b.zero_()
        assert torch.equal(factors.b, pair(3).b)
        assert torch.equal(factors.a, pair(3).a)


@pytest.mark.parametrize("size", [AdapterSize(1, 3.0), AdapterSize(2, 3.0), AdapterSize(4, 3.0)])
def test_an_update_is_resized_module_by_module_and_its_head_stays(size: AdapterSize) -> None:
    update = random_update(weight=5.0)
    resized = resize_update(update, size, seed=7)
    assert same_bits(resized, resize_update(random_update(weight=5.0), size, seed=7))
    assert resized.groups["head"] is update.groups["head"]
    assert (resized.weight, resized.facts) == (update.weight, update.facts)
    for name, factors in update.factors.items():
        assert AdapterSize(len(resized.factors[name].a), resized.factors[name].scale) == size
        assert distance(product(resized.factors[name]), dense_truncation(product(factors), size.rank)) < 1e-6


def test_fresh_rows_differ_between_modules_and_seeds() -> None:
    update = random_update()
    first, second = resize_update(update, AdapterSize(4, 2.0), seed=7).factors.values()
    other, _ = resize_update(update, AdapterSize(4, 2.0), seed=8).factors.values()
    assert not torch.equal(first.a[2:], second.a[2:])
    assert not torch.equal(first.a[2:], other.a[2:])


def test_an_update_of_that_size_is_returned_as_it_is() -> None:
    update = random_update()
    assert resize_update(update, AdapterSize(2, 2.0), seed=7) is update
    mixed = update.with_factors({**update.factors, "layer.0.query": pair(3)})
    assert {len(factors.a) for factors in resize_update(mixed, AdapterSize(2, 2.0), seed=7).factors.values()} == {2}


def test_no_matrix_of_the_products_size_is_made() -> None:
    """d = k = 60,000: the dense product would take 60,000² · 4 bytes = 14.4 GB, and its SVD days."""
    generator = torch.Generator().manual_seed(0)
    wide = Factors(torch.randn(4, 60_000, generator=generator), torch.randn(60_000, 4, generator=generator), 2.0)
    for rank in (1, 6):
        resized = resize_factors(wide, AdapterSize(rank, 1.0), seed=7)
        assert (resized.a.shape, resized.b.shape) == ((rank, 60_000), (60_000, rank))
