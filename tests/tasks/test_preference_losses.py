"""Losses of preferences against their closed forms."""

import math

import pytest
import torch

from fedfit.tasks.preference_losses import LOSSES, dpo, ipo, kto

POLICY = torch.tensor([[-3.0, -5.0], [-4.0, -2.0]], dtype=torch.float64)
REFERENCE = torch.tensor([[-3.5, -4.0], [-4.0, -2.5]], dtype=torch.float64)
COUNTS = torch.tensor([[2.0, 4.0], [1.0, 5.0]], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_dpo_by_hand() -> None:
    """Log-ratios: 0.5 and −1 (h = 1.5); 0 and 0.5 (h = −0.5)."""
    expected = [-math.log(sigmoid(0.2 * 1.5)), -math.log(sigmoid(0.2 * -0.5))]
    assert dpo(POLICY, REFERENCE, COUNTS, 0.2).tolist() == pytest.approx(expected)


def test_ipo_by_hand() -> None:
    """Means over tokens: 0.25 and −0.25 (h = 0.5); 0 and 0.1 (h = −0.1); 1/(2β) = 2.5."""
    assert ipo(POLICY, REFERENCE, COUNTS, 0.2).tolist() == pytest.approx([(0.5 - 2.5) ** 2, (-0.1 - 2.5) ** 2])


@pytest.mark.parametrize(("shift", "level"), [(0.0, 0.0), (2.0, 2.0)])
def test_kto_by_hand(shift: float, level: float) -> None:
    """The mean log-ratio is (0.5 − 1 + 0 + 0.5)/4 = 0, and ``shift`` when all are raised by it; below 0 it counts as 0."""
    ratios = [[0.5 + shift, -1.0 + shift], [shift, 0.5 + shift]]
    expected = [1 - (sigmoid(0.2 * (better - level)) + sigmoid(0.2 * (level - worse))) / 2 for better, worse in ratios]
    assert kto(POLICY + shift, REFERENCE, COUNTS, 0.2).tolist() == pytest.approx(expected)
    lowered = kto(POLICY - 1, REFERENCE, COUNTS, 0.2)[0]
    assert float(lowered) == pytest.approx(1 - (sigmoid(0.2 * -0.5) + sigmoid(0.2 * 2.0)) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_raises_the_chosen_and_lowers_the_rejected_one(name: str) -> None:
    policy = REFERENCE.clone().requires_grad_()
    LOSSES[name](policy, REFERENCE, COUNTS, 0.1).sum().backward()  # type: ignore[no-untyped-call]
    assert policy.grad is not None
    assert (policy.grad[:, 0] < 0).all()
    assert (policy.grad[:, 1] > 0).all()


def test_dpo_of_the_reference_itself_is_one_bit() -> None:
    assert dpo(REFERENCE, REFERENCE, COUNTS, 0.1).tolist() == pytest.approx([math.log(2)] * 2)
