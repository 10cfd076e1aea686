"""Tensors left out by importance and rounded to as few bits as pay, against slow twins."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from fedfit.codecs.fedobd import FedOBD, best_digits
from fedfit.codecs.stage import Coded, Known
from fedfit.errors import UpdateRefused

SHAPES = ((4, 8), (8, 3), (5,), (16, 2))
SIZES = [32, 24, 5, 32]
ENTRIES = sum(SIZES)
KNOWN = Known(torch.zeros(ENTRIES), 0, SHAPES)


def vector(seed: int) -> Tensor:
    """Tensors of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    strengths = torch.randperm(4, generator=generator)
    pieces = [torch.randn(size, generator=generator) * 10.0 ** float(s) for size, s in zip(SIZES, strengths, strict=True)]
    return torch.cat(pieces)


def rounded(numbers: list[float], digits: int) -> list[float]:
    """The nearest of 2^b levels, each by itself."""
    low, high = min(numbers), max(numbers)
    levels = [low + (high - low) * code / (2**digits - 1) for code in range(2**digits)]
    return [min(levels, key=lambda level: abs(level - x)) for x in numbers]


@pytest.mark.parametrize("seed", range(6))
def test_the_bits_are_those_of_the_least_cost(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(40, generator=generator) * torch.exp(seed * torch.randn(40, generator=generator) / 2)
    numbers = tensor.tolist()
    size = float(sum(x * x for x in numbers))

    def cost(digits: int) -> float:
        left = torch.tensor(numbers) - torch.tensor(rounded(numbers, digits))
        return float(left.square().sum()) / size + digits / 32

    assert best_digits(tensor) == min(range(1, 9), key=cost)
    assert best_digits(torch.full((7,), 2.5)) == 1, "one level says it"
    assert best_digits(torch.zeros(7)) == 1


def test_more_bits_where_more_pay() -> None:
    """Two values need one bit; numbers spread evenly over their range more; a few large ones among small ones most."""
    two = torch.tensor([-1.0, 1.0] * 20)
    even = torch.linspace(-1, 1, 40)
    found = [best_digits(two), best_digits(even)]
    assert found[0] == 1 < found[1]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_the_least_important_are_left_out(share: float, seed: int) -> None:
    """Of the tensors in the order of ‖x‖/count as many as hold at most the share of all numbers. By trying every count."""
    x = vector(seed)
    pieces = torch.split(x, SIZES)
    order = sorted(range(4), key=lambda n: float(pieces[n].norm()) / SIZES[n])
    most = max(count for count in range(5) if sum(SIZES[n] for n in order[:count]) <= share * ENTRIES)
    digits = FedOBD(share).encode(x, KNOWN).beside["digits"].tolist()
    assert {n for n in range(4) if digits[n] == 0} == set(order[:most])


def test_each_number_is_off_by_half_a_level_or_left_out() -> None:
    stage, x = FedOBD(0.3), vector(5)
    coded = stage.encode(x, KNOWN)
    found = stage.decode(coded, ENTRIES, KNOWN)
    digits = coded.beside["digits"].tolist()
    assert 0 in digits
    for piece, seen, count in zip(torch.split(x, SIZES), torch.split(found, SIZES), digits, strict=True):
        if count:
            step = float(piece.max() - piece.min()) / (2**count - 1)
            assert float((piece - seen).abs().max()) <= step / 2 * (1 + 1e-4)
        else:
            assert not seen.any()
    # codes of each tensor fill whole bytes
    lengths = [math.ceil(size * count / 8) for size, count in zip(SIZES, digits, strict=True)]
    assert len(coded.values) == sum(lengths) == stage.length(ENTRIES, SHAPES, coded.beside)


def test_nothing_and_not_a_number() -> None:
    for place, worst, share in itertools.product((0, 40, 58, 70), (float("nan"), float("inf")), (0.1, 0.5, 0.9, 0.99)):
        x = vector(0)
        x[place] = worst
        found = FedOBD(share).decode(FedOBD(share).encode(x, KNOWN), ENTRIES, KNOWN)
        assert not bool(found.isfinite().all()), "a check finds it"
    none = Known(torch.zeros(0), 0, ())
    assert len(FedOBD(0.5).decode(FedOBD(0.5).encode(torch.zeros(0), none), 0, none)) == 0


def test_the_bound_is_the_longest_packet_that_there_can_be() -> None:
    """Nothing left out, 8 bits a number."""
    (bound,) = FedOBD(0.3).bound
    most, real = bound.encode(vector(2), KNOWN), FedOBD(0.3).encode(vector(2), KNOWN)
    assert len(most.values) == ENTRIES > len(real.values)
    assert len(most.beside["ends"]) == len(SHAPES)


def test_hostile_packets_are_refused() -> None:
    stage, good = FedOBD(0.3), FedOBD(0.3).encode(vector(1), KNOWN)
    wrong = {
        "digits": [torch.tensor([9, 1, 1, 1], dtype=torch.uint8), torch.ones(3, dtype=torch.uint8), torch.ones(4)],
        "ends": [torch.zeros(4, 3), torch.zeros(1, 2), torch.zeros(3, 2, dtype=torch.float64)],
    }
    for name, tensors in wrong.items():
        for tensor, gone in itertools.product(tensors, (False, True)):
            beside = {**good.beside, name: tensor}
            if gone:
                del beside[name]
            with pytest.raises(UpdateRefused):
                stage.decode(Coded(good.values, beside), ENTRIES, KNOWN)
    with pytest.raises(UpdateRefused):
        stage.decode(Coded(good.values[:-1], good.beside), ENTRIES, KNOWN)
