"""Cross-entropy in chunks, held to torch's over all logits at once."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fedfit.models import readout
from fedfit.models.readout import Readout, VocabularyHead, chunks

ROWS, HIDDEN, WORDS = 37, 16, 500


@pytest.fixture(params=[None, 2.5], ids=["plain", "soft cap"])
def head(request: pytest.FixtureRequest) -> VocabularyHead:
    return VocabularyHead(torch.randn(WORDS, HIDDEN, generator=torch.Generator().manual_seed(1)), request.param)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "CHUNK_BYTES", 5 * WORDS * 4)  # five rows, so that the last chunk has two


def states(kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(2)).to(kind).requires_grad_()


def plain_logits(x: Tensor, head: VocabularyHead) -> Tensor:
    logits = x @ head.weight.t()
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


WANTED = torch.randint(0, WORDS, (ROWS,), generator=torch.Generator().manual_seed(3))
WEIGHTS = torch.rand(ROWS, generator=torch.Generator().manual_seed(4))
"""Of the rows in the loss, each another."""


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["fp32", "fp64"])
def test_values_and_gradients_are_those_of_torch(head: VocabularyHead, kind: torch.dtype, tolerance: float) -> None:
    head = VocabularyHead(head.weight.to(kind), head.soft_cap)
    ours, its = states(kind), states(kind)
    found = Readout(ours, head).log_probs(WANTED)
    expected = -functional.cross_entropy(plain_logits(its, head), WANTED, reduction="none")
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    (found * WEIGHTS).sum().backward()  # type: ignore[no-untyped-call]
    (expected * WEIGHTS).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, its.grad, rtol=tolerance, atol=tolerance)


def test_without_a_wanted_gradient_none_is_made(head: VocabularyHead) -> None:
    found = Readout(states().detach(), head).log_probs(WANTED)
    assert not found.requires_grad
    torch.testing.assert_close(found, Readout(states(), head).log_probs(WANTED))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the numbers of the largest tensor that any operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return found


def test_no_tensor_is_larger_than_a_chunk(head: VocabularyHead) -> None:
    x = states()
    with Largest() as spy:
        Readout(x, head).log_probs(WANTED).sum().backward()  # type: ignore[no-untyped-call]
        Readout(x, head).kl(Readout(x.detach() + 0.1, head))
        Readout(x, head).best()
    assert spy.numbers == max(5 * WORDS, WORDS * HIDDEN)  # the weight itself is seen, transposed
    with Largest() as spy:
        functional.cross_entropy(plain_logits(x, head), WANTED).backward()  # type: ignore[no-untyped-call]
    assert spy.numbers == ROWS * WORDS


def test_chunks_cover_all_rows_once_and_one_row_at_least() -> None:
    def ends(rows: int, numbers: int) -> list[tuple[int, int]]:
        return [(each.start, each.stop) for each in chunks(rows, numbers)]

    assert ends(12, WORDS) == [(0, 5), (5, 10), (10, 12)]
    assert ends(2, 10 * WORDS) == [(0, 1), (1, 2)]
    assert ends(0, WORDS) == []


def test_kl_is_that_of_torch_and_zero_from_itself(head: VocabularyHead) -> None:
    mine, its = Readout(states(), head), Readout(states().detach() * 0.7, head)
    p, q = (plain_logits(each.states, head).log_softmax(dim=1) for each in (mine, its))
    expected = functional.kl_div(q, p, reduction="none", log_target=True).sum(dim=1)
    found = mine.kl(its)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.kl(mine), torch.zeros(ROWS))


def test_the_best_token_is_that_of_all_logits_and_logits_of_a_few_are_theirs(head: VocabularyHead) -> None:
    x = states().detach()
    expected = plain_logits(x, head)
    assert torch.equal(Readout(x, head).best(), expected.argmax(dim=1))
    torch.testing.assert_close(Readout(x, head).logits(torch.tensor([3, 1])), expected[[3, 1]])


def test_no_rows_at_all(head: VocabularyHead) -> None:
    none = Readout(torch.empty(0, HIDDEN, requires_grad=True), head)
    assert none.log_probs(torch.empty(0, dtype=torch.long)).shape == (0,)
    assert none.best().shape == none.kl(none).shape == (0,)


def test_it_keeps_the_precision_in_which_it_was_made(head: VocabularyHead) -> None:
    x = states()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = Readout(x, head)
    found, full = mixed.log_probs(WANTED), Readout(states(), head).log_probs(WANTED)
    assert found.dtype == torch.float32
    assert 0 < float((found - full).abs().max()) < 0.1 * float(full.abs().max())
    found.sum().backward()  # type: ignore[no-untyped-call]
    other = states()
    Readout(other, head).log_probs(WANTED).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert other.grad is not None
    assert x.grad.dtype == torch.float32
    assert float((x.grad - other.grad).norm()) < 0.02 * float(other.grad.norm())


HALF = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Half types, and the relative error of one rounding."""


def half_gradient(x: Tensor, wanted: Tensor, head: VocabularyHead, kind: torch.dtype) -> Tensor:
    """Of the summed log-probabilities in mixed precision, as a loss scaler gets it: scaled before, divided after."""
    with torch.autocast("cpu", dtype=kind):
        found = Readout(x, head).log_probs(wanted)
    (found.sum() * 2.0**8).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return x.grad.double() / 2.0**8


@pytest.mark.parametrize("kind", HALF, ids=str)
def test_the_gradient_of_a_nearly_sure_token_survives_half_precision(kind: torch.dtype) -> None:
    """Of two words ``w`` and ``−w`` with ``|w| = 1``, the state ``z w`` has the logits ``±z``, exact in a half type. The first
    one's gradient is ``2 (1 − p) w`` with ``1 − p = 1 / (1 + exp 2z)``, 8e-7 at 7. A half type rounds ``w`` and ``Wᵀp`` to the
    same number, so it must not take their difference."""
    word, z = torch.full((4,), 0.5), torch.arange(0.0, 7.5, 0.5)
    head = VocabularyHead(torch.stack([word, -word]), None)
    found = half_gradient((z[:, None] * word).requires_grad_(), torch.zeros(len(z), dtype=torch.long), head, kind)
    expected = (2 / (1 + (2 * z.double()).exp()))[:, None] * word
    torch.testing.assert_close(found, expected, rtol=HALF[kind], atol=0)


@pytest.mark.parametrize("kind", HALF, ids=str)
def test_a_gradient_below_the_least_half_number_is_kept_for_the_loss_scaler(kind: torch.dtype) -> None:
    """The same words, where ``z = 7`` makes numbers of 8e-7: as the least one of float16 is 6e-8, those of a mean over a
    hundred rows would be none. The states are of the half type themselves, and so is their gradient."""
    word = torch.full((4,), 0.5)
    x = (7 * word).to(kind)[None].requires_grad_()
    with torch.autocast("cpu", dtype=kind):
        found = Readout(x, VocabularyHead(torch.stack([word, -word]), None)).log_probs(torch.zeros(1, dtype=torch.long))
    (found.sum() / 100 * 2.0**16).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.dtype == kind
    expected = (2 / (1 + math.exp(14))) * word[None].double() / 100
    torch.testing.assert_close(x.grad.double() / 2.0**16, expected, rtol=HALF[kind], atol=0)


def test_small_shares_of_a_large_vocabulary_keep_their_digits_and_large_weights_do_not_overflow() -> None:
    """All words are alike, each with a share of 4e-6 of a W of 50; the wanted one has −50: the row is −100."""
    weight = torch.full((275_000, 2), 50.0)
    weight[7] = -50.0
    x = torch.zeros(1, 2, requires_grad=True)
    found = half_gradient(x, torch.tensor([7]), VocabularyHead(weight, None), torch.float16)
    torch.testing.assert_close(found, torch.full((1, 2), -100.0).double(), rtol=2e-3, atol=0)
