"""Each stage against its bound, its expectation and its variance, by hand or by a slow twin."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from fedfit.codecs.normal_float import LEVELS, NormalFloat
from fedfit.codecs.picking import Delta, RandomK, TopK
from fedfit.codecs.rounding import Half, Quantize, pack_codes, unpack_codes
from fedfit.codecs.stage import Coded, Known, Stage
from fedfit.errors import UpdateRefused


def vector(entries: int, seed: int = 0) -> Tensor:
    """Numbers of very different sizes, with a zero in each block of 64."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(entries, generator=generator) * torch.exp(2 * torch.randn(entries, generator=generator))
    found[::64] = 0
    return found


def there_and_back(stage: Stage, x: Tensor, seed: int = 0, reference: Tensor | None = None) -> Tensor:
    known = Known(torch.zeros(len(x)) if reference is None else reference, seed)
    coded = stage.encode(x, known)
    assert len(coded.values) == stage.length(len(x), (), coded.beside)
    return stage.decode(coded, len(x), known)


@pytest.mark.parametrize("digits", range(1, 9))
@pytest.mark.parametrize("entries", [1, 63, 64, 200])
def test_quantize_is_off_by_at_most_a_level(digits: int, entries: int) -> None:
    """M/s of each block of 64; 2M at one bit, where either end may be drawn."""
    stage, x = Quantize(digits), vector(entries)
    found = there_and_back(stage, x, seed=3)
    for start in range(0, entries, 64):
        block, seen = x[start : start + 64], found[start : start + 64]
        most = float(block.abs().max())
        bound = 2 * most if digits == 1 else most / (2 ** (digits - 1) - 1)
        assert float((seen - block).abs().max()) <= bound * (1 + 1e-5)
        levels = 1 if digits == 1 else 2 ** (digits - 1) - 1
        steps = (seen / most * levels) if most else seen
        assert torch.allclose(steps, steps.round(), atol=1e-4), "only values of the levels"
    assert torch.equal(there_and_back(stage, torch.zeros(entries)).abs(), torch.zeros(entries))


@pytest.mark.parametrize("digits", [1, 2, 3, 5])
def test_quantize_is_unbiased_within_the_papers_variance(digits: int) -> None:
    """4,000 draws of 64 entries: the mean is off by less than six standard errors of the variance's bound."""
    stage, x, draws = Quantize(digits), vector(64, seed=1), 4000
    found = torch.stack([there_and_back(stage, x, seed) for seed in range(draws)]).double()
    most = float(x.abs().max())
    variance = most**2 if digits == 1 else (most / (2 ** (digits - 1) - 1)) ** 2 / 4
    assert float((found.mean(dim=0) - x.double()).abs().max()) < 6 * (variance / draws) ** 0.5
    assert float(found.var(dim=0).max()) < variance * 1.15
    assert float(found.var(dim=0).max()) > variance * 0.2, "the bound is near: it is no empty one"


def test_quantize_takes_its_bits() -> None:
    """640 numbers at 3 bits: 240 bytes, and ten scales of 4 bytes."""
    coded = Quantize(3).encode(vector(640), Known(torch.zeros(640)))
    assert (coded.values.dtype, len(coded.values), len(coded.beside["scales"])) == (torch.uint8, 240, 10)
    assert Quantize(3).bits(32) == pytest.approx(8 * (240 + 40) / 640)


@pytest.mark.parametrize("digits", range(1, 9))
def test_packing_is_without_gaps_and_the_same_back(digits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**digits, 101).astype(np.uint8)
    packed = pack_codes(codes, digits)
    assert len(packed) == -(-101 * digits // 8)
    assert np.array_equal(unpack_codes(packed, 101, digits), codes)
    text = "".join(f"{code:0{digits}b}" for code in codes)
    assert "".join(f"{byte:08b}" for byte in packed).rstrip("0") == text.rstrip("0")


def test_nf4_goes_to_the_nearest_of_its_quantiles() -> None:
    """QLoRA's levels: quantiles of 8 and 7 steps from 0.9677083 to one half, zero between them, over the largest. The widest
    gap is from 0.696 to 1.
    """
    above = norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(0.9677083, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([below, [0.0], above])) / above.max()
    np.testing.assert_allclose(LEVELS, levels, atol=1e-6)
    x = vector(500)
    found = there_and_back(NormalFloat(), x)
    for start in range(0, 500, 64):
        block, seen = x[start : start + 64], found[start : start + 64]
        most = float(block.abs().max())
        nearest = [min((abs(level - number), level) for level in LEVELS)[1] for number in (block / most).tolist()]
        torch.testing.assert_close(seen, torch.tensor(nearest) * most)
        assert float((seen - block).abs().max()) <= 0.152 * most
    assert torch.equal(there_and_back(NormalFloat(), torch.zeros(70)), torch.zeros(70))


@pytest.mark.parametrize(("kind", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_half_precision_is_to_the_nearest(kind: torch.dtype, digits: int) -> None:
    x = vector(1000).clamp(-6e4, 6e4)
    x = x[(x == 0) | (x.abs() > 1e-4)]
    found = there_and_back(Half(kind), x)
    assert bool(((found - x).abs() <= x.abs() * 2.0**-digits).all())
    assert there_and_back(Half(torch.float16), torch.tensor([1e6, -1e6])).tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_top_k_is_its_slow_twin(share: float) -> None:
    x = vector(300)
    x[17] = x[5]  # of equals the first
    count = max(1, round(share * 300))
    order = sorted(range(300), key=lambda place: (-abs(float(x[place])), place))[:count]
    expected = [float(x[place]) if place in order else 0.0 for place in range(300)]
    assert there_and_back(TopK(share), x).tolist() == expected


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_random_k_is_unbiased_with_its_variance(share: float) -> None:
    """Over 4,000 draws; the squared distance is (n/k − 1)·‖x‖² on the mean."""
    x, draws = vector(50, seed=2), 4000
    found = torch.stack([there_and_back(RandomK(share), x, seed) for seed in range(draws)]).double()
    spread = (50 / round(share * 50) - 1) ** 0.5 * x.double().abs()
    assert bool(((found.mean(dim=0) - x.double()).abs() <= 6 * spread / draws**0.5 + 1e-9).all())
    distance = float(((found - x.double()) ** 2).sum(dim=1).mean())
    assert distance == pytest.approx((50 / round(share * 50) - 1) * float((x.double() ** 2).sum()), rel=0.1)
    assert all(int((row != 0).sum()) <= round(share * 50) for row in found)


def test_delta_is_the_difference() -> None:
    x, reference = vector(100), vector(100, seed=4)
    coded = Delta().encode(x, Known(reference))
    assert torch.equal(coded.values, x - reference)
    torch.testing.assert_close(
        there_and_back(Delta(), x, reference=reference), x, rtol=1e-6, atol=1e-6 * float(reference.abs().max())
    )


@pytest.mark.parametrize("stage", [Delta(), TopK(0.1), RandomK(0.1), Half(torch.bfloat16), Quantize(3), NormalFloat()])
def test_tensors_of_another_form_are_refused(stage: Stage) -> None:
    x, known = vector(130), Known(torch.zeros(130))
    coded = stage.encode(x, known)
    wrong = [Coded(coded.values[:-1], coded.beside), Coded(coded.values.double(), coded.beside)]
    for name, tensor in coded.beside.items():
        wrong += [Coded(coded.values, {n: t for n, t in coded.beside.items() if n != name})]
        wrong += [Coded(coded.values, {**coded.beside, name: tensor.double()})]
    for each in wrong:
        with pytest.raises(UpdateRefused):
            stage.decode(each, 130, known)


def test_a_code_that_no_encoder_makes_is_refused() -> None:
    """At 2 bits the codes are 0, 1 and 2; 3 would be a level that is not there."""
    coded = Quantize(2).encode(vector(4), Known(torch.zeros(4)))
    with pytest.raises(UpdateRefused, match="a code above 2"):
        Quantize(2).decode(Coded(torch.tensor([255], dtype=torch.uint8), coded.beside), 4, Known(torch.zeros(4)))


def test_what_is_not_finite_is_not_hidden() -> None:
    """The server refuses what it decodes then."""
    x = vector(200)
    x[100] = float("nan")
    for stage in (Quantize(4), TopK(0.01), Half(torch.bfloat16), NormalFloat()):
        assert not bool(there_and_back(stage, x).isfinite().all())
