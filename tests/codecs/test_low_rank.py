"""Two thin factors of a matrix, against linear algebra."""

import pytest
import torch

from fedfit.codecs.low_rank import LowRank
from fedfit.codecs.stage import Coded, Known
from fedfit.errors import UpdateRefused

SHAPES = ((12, 9), (5,), (3, 2), (20, 8))
"""The third is no smaller as two factors of rank 2: (3 + 2) · 2 > 6."""
ENTRIES = 108 + 5 + 6 + 160


def known(kept: torch.Tensor | None = None) -> Known:
    return Known(torch.zeros(ENTRIES), 7, SHAPES, kept)


def test_a_matrix_of_that_rank_comes_back() -> None:
    """M·Q spans M's columns then, for nearly every Q. What would not be smaller comes back to the bit."""
    generator = torch.Generator().manual_seed(0)
    pieces = [
        (torch.randn(shape[0], 2, generator=generator) @ torch.randn(2, shape[-1], generator=generator)).reshape(-1)
        if len(shape) == 2
        else torch.randn(shape[0], generator=generator)
        for shape in SHAPES
    ]
    vector, stage = torch.cat(pieces), LowRank(2)
    coded = stage.encode(vector, known())
    # (12 + 9)·2 + 5 + 6 + (20 + 8)·2
    assert len(coded.values) == stage.length(ENTRIES, SHAPES) == 42 + 5 + 6 + 56
    found = stage.decode(coded, ENTRIES, known())
    torch.testing.assert_close(found, vector, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[108:119], vector[108:119])


def test_what_is_seen_is_a_projection() -> None:
    """P·Pᵀ·M: what is left out is orthogonal to it, so the squares add up."""
    vector, stage = torch.randn(ENTRIES, generator=torch.Generator().manual_seed(1)), LowRank(2)
    found = stage.decode(stage.encode(vector, known()), ENTRIES, known())
    left = vector - found
    assert float(found.square().sum() + left.square().sum()) == pytest.approx(float(vector.square().sum()), rel=1e-4)
    assert 0.01 < float(left.norm() / vector.norm()) < 1


def test_what_is_kept_is_the_next_packets_start() -> None:
    """By hand for one matrix: P = orth(M·Q), Q = Mᵀ·P; what was kept of other shapes is not used."""
    matrix = torch.randn(12, 9, generator=torch.Generator().manual_seed(2))
    start = torch.randn(9, 2, generator=torch.Generator().manual_seed(3))
    one = Known(torch.zeros(108), 7, ((12, 9),), start.reshape(-1))
    coded = LowRank(2).encode(matrix.reshape(-1), one)
    sent, turned = coded.values[:24].view(12, 2), coded.values[24:].view(9, 2)
    size = sent.norm(dim=0)  # √σ of each column, by which P is multiplied and Q divided
    p, product = sent / size, matrix @ start
    torch.testing.assert_close(p.T @ p, torch.eye(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p @ (p.T @ product), product, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned * size, matrix.T @ p, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned.norm(dim=0), size, rtol=1e-4, atol=1e-4)
    assert coded.kept is not None
    assert torch.equal(coded.kept.view(9, 2), turned)
    drawn = LowRank(2).encode(matrix.reshape(-1), Known(torch.zeros(108), 7, ((12, 9),)))
    other = LowRank(2).encode(matrix.reshape(-1), Known(torch.zeros(108), 7, ((12, 9),), torch.ones(5)))
    assert torch.equal(other.values, drawn.values)
    assert not torch.equal(coded.values, drawn.values)


def test_not_a_number_is_not_hidden() -> None:
    vector = torch.zeros(ENTRIES)
    vector[3] = float("nan")
    found = LowRank(2).decode(LowRank(2).encode(vector, known()), ENTRIES, known())
    assert bool(found[:108].isnan().any())


def test_another_length_is_refused() -> None:
    with pytest.raises(UpdateRefused, match="values"):
        LowRank(2).decode(Coded(torch.zeros(7), {}), ENTRIES, known())
