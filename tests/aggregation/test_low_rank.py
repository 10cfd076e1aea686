"""The truncated SVD from factors against the dense one, in every regime of shapes and spectra that it tells apart."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedfit.aggregation import low_rank
from fedfit.aggregation.low_rank import nearest_factors, product_factors
from fedfit.core.update import AdapterSize, Factors

# (d, n, k): n below both, between them on either side, equal to one, and above both.
SHAPES = [(20, 12, 30), (30, 12, 20), (20, 25, 30), (30, 25, 20), (20, 20, 30), (30, 20, 20), (20, 40, 30), (30, 40, 20)]


def with_values(shape: tuple[int, int, int], values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``b (d, n)`` and ``a (n, k)``, full matrices, whose product has the singular values ``values`` and zeros.

    ``B = U Σ Pᵀ G`` and ``A = G⁻¹ P Vᵀ`` with orthonormal U, P, V and a random G near the identity.
    """
    d, n, k = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    left, middle, right = (torch.linalg.qr(draw(size, len(values))).Q for size in (d, n, k))
    mixing = torch.eye(n, dtype=torch.float64) + 0.3 / math.sqrt(n) * draw(n, n)
    return left @ torch.diag(values) @ middle.t() @ mixing, torch.linalg.inv(mixing) @ middle @ right.t()


def factors_of(b: Tensor, a: Tensor, rank: int) -> Factors:
    """In float64: the type of the old factors is the type of the new."""
    old = Factors(torch.ones(rank, a.shape[1], dtype=torch.float64), torch.zeros(len(b), rank, dtype=torch.float64), 1.0)
    return nearest_factors(b, a, AdapterSize(rank, 2.0), old)


def nearest(b: Tensor, a: Tensor, rank: int) -> Tensor:
    """The product of what was found."""
    found = factors_of(b, a, rank)
    assert (found.a.shape, found.b.shape) == ((rank, a.shape[1]), (len(b), rank))
    return 2.0 * found.b @ found.a


def dense(b: Tensor, a: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(b @ a, full_matrices=False)
    cut: Tensor = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    return cut


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 6, 11, 12])
@pytest.mark.parametrize("lowest", [1.0, 1e-2, 1e-6, 1e-10])
def test_it_is_the_dense_svd_truncated(shape: tuple[int, int, int], rank: int, lowest: float) -> None:
    """Twelve values, evenly in their logarithms from 1 to ``lowest``; with ``lowest`` 1 from 2 to 1, so that the cut is clear.

    Both ways start from products that are off by some 2⁻⁵² of the largest value. The space of a cut between neighbours turns by
    that over their distance, 0.1 of the lower at the least, which the values there give back; so 1e-12 is a thousand times it.
    Squares, where they are used, may lose 2e-8 more, of a value that is at most the largest.
    """
    values = (
        torch.linspace(2, 1, 12, dtype=torch.float64) if lowest == 1.0 else torch.logspace(0, math.log10(lowest), 12).double()
    )
    b, a = with_values(shape, values)
    expected = dense(b, a, rank)
    assert float((nearest(b, a, rank) - expected).norm() / expected.norm()) < (1e-12 if lowest >= 1e-2 else 2e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_of_exactly_that_rank_is_kept(shape: tuple[int, int, int]) -> None:
    """Values down to 1e-7 of the largest, and nothing beyond: squares could not tell the last from nothing."""
    b, a = with_values(shape, torch.logspace(0, -7, 4).double())
    for rank in (4, 5, 6):
        difference = nearest(b, a, rank) - b @ a
        assert float(difference.norm()) < 1e-12 * float((b @ a).norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("lowest", "by_squares"), [(0.1, True), (1e-3, True), (1e-5, False)])
def test_squares_are_used_where_they_are_good_enough(
    shape: tuple[int, int, int], lowest: float, by_squares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest value kept is to be above 1e-4 of the largest, and the rank at most half of what there is."""
    whole, calls = low_rank._whole_svd, list[int]()

    def counted(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(1)
        return whole(b, a)

    monkeypatch.setattr(low_rank, "_whole_svd", counted)
    values = torch.cat([torch.logspace(0, math.log10(lowest), 6), torch.full((4,), lowest / 2)]).double()
    b, a = with_values(shape, values)
    nearest(b, a, 6)
    assert bool(calls) is not by_squares
    calls.clear()
    nearest(b, a, min(shape) // 2 + 1)
    assert calls


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_made_of_nothing(shape: tuple[int, int, int]) -> None:
    d, n, k = shape
    zero = torch.zeros(d, n, dtype=torch.float64)
    assert not nearest(zero, torch.ones(n, k, dtype=torch.float64), 3).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_product_has_the_rank_that_it_has(shape: tuple[int, int, int]) -> None:
    b, a = with_values(shape, torch.tensor([3.0, 2.0, 1.0, 1e-3, 1e-9], dtype=torch.float64))
    found = product_factors(b, a, Factors(torch.zeros(1, 1), torch.zeros(1, 1), 1.0))
    assert (found.a.shape, found.b.shape) == ((4, shape[2]), (shape[0], 4))  # 1e-9 is below what float32 holds beside 3
    torch.testing.assert_close(found.b.double() @ found.a.double(), b @ a, rtol=0, atol=1e-6)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers that any operation's result has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize(
    ("shape", "rank"), [((300, 40, 200), 8), ((300, 40, 200), 30), ((300, 250, 200), 8), ((50, 60, 900), 8)]
)
def test_nothing_larger_than_the_larger_factor_is_made(shape: tuple[int, int, int], rank: int) -> None:
    """Below min(d, k) that is n·max(d, k), far from d·k: 12,000 of 60,000. Above it d·k is the smaller of the two."""
    d, n, k = shape
    b, a = with_values(shape, torch.linspace(2, 1, min(shape), dtype=torch.float64))
    with Largest() as largest:  # type: ignore[no-untyped-call]
        factors_of(b, a, rank)
    assert largest.numbers <= n * max(d, k)


@pytest.mark.parametrize("alike", [0.0, 1e-3, 1e-9])
def test_directions_that_are_left_to_learn_in_are_the_slow_twins(alike: float) -> None:
    """A product of rank 2 at rank 10: eight rows out of the old A, whose own differ by ``alike`` of their size only.

    The twin takes every found direction off every candidate, twice, each time. With 1e-9 the candidates are used up at once:
    noise of 1e-4 is larger, and the rows need only be orthonormal.
    """
    generator = torch.Generator().manual_seed(3)
    old = torch.randn(10, 40, generator=generator, dtype=torch.float64)
    if alike:
        old = old[:1] + alike * old
    rows = torch.linalg.qr(torch.randn(40, 2, generator=generator, dtype=torch.float64)).Q.t()
    found = low_rank._other_directions(rows, old, 8)
    both = torch.cat([rows, found])
    torch.testing.assert_close(both @ both.t(), torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-12)
    if alike != 1e-9:
        rest, twin = old, rows
        for _ in range(8):
            for _ in range(2):
                rest = rest - (rest @ twin.t()) @ twin
            best = rest[rest.norm(dim=1).argmax()]
            twin = torch.cat([twin, (best / best.norm())[None]])
        torch.testing.assert_close(found, twin[2:], rtol=0, atol=1e-10)
