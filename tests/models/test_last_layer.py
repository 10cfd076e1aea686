"""The tail at the positions that a task reads, held to Hugging Face's whole model with its own head."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedfit.models.families import FAMILIES
from fedfit.models.last_layer import Positions
from fedfit.models.split import SplitModel
from tests.builders import CLASSES, EVERY, HIDDEN, padded_batch, random_samples, tiny_split
from tests.models.whole import gradients_by_peft_name, hidden_at_the_cut, whole_model

SAMPLES = random_samples(16, seed=3)
ROWS = list(range(10))
LENGTHS = torch.from_numpy(SAMPLES.lengths[ROWS])
ANY = torch.stack([LENGTHS // 2, LENGTHS - 1, torch.zeros_like(LENGTHS), LENGTHS // 2], dim=1)
"""Four tokens of each row, out of order, and one of them twice."""
CHOICES: dict[str, tuple[Positions, Tensor]] = {
    "first": ("first", torch.zeros_like(LENGTHS)[:, None]),
    "last": ("last", LENGTHS[:, None] - 1),
    "one by index": (LENGTHS[:, None] // 2, LENGTHS[:, None] // 2),
    "several by index": (ANY, ANY),
}
CASES: dict[str, dict[str, Any]] = {
    "last:2": {"layers": "last:2"},
    "all, every target": {"layers": "all", "targets": EVERY},
    "last:1, every target, frozen head": {"layers": "last:1", "targets": EVERY, "head": "freeze"},
}


def logits_at(whole: Any, split: SplitModel, index: Tensor) -> Tensor:
    """``(batch, positions, labels)``: each position in turn is put at the front of what the last layer gives, since the heads
    of transformers read the front. A decoder's maps every token by itself, before it picks one."""
    ids, mask, _ = padded_batch(SAMPLES, ROWS)
    if split.family.decoder is not None:
        normed = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        every: Tensor = whole.get_base_model().score(normed)
        return every.gather(1, index[..., None].expand(-1, -1, CLASSES))
    encoder = whole.get_base_model().get_submodule(split.family.encoder)
    last = list(encoder.get_submodule(split.family.layers).children())[-1]
    found = []
    for column in index.T:

        def to_the_front(module: Any, inputs: Any, output: Any, column: Tensor = column) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            chosen = hidden[torch.arange(len(hidden)), column][:, None]
            return (chosen, *output[1:]) if isinstance(output, tuple) else chosen

        handle = last.register_forward_hook(to_the_front)
        found.append(whole(input_ids=ids, attention_mask=mask).logits)
        handle.remove()
    return torch.stack(found, dim=1)


def loss_of(logits: Tensor) -> Tensor:
    labels = torch.arange(logits.shape[0] * logits.shape[1]) % CLASSES
    return functional.cross_entropy(logits.flatten(0, 1), labels)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_every_gradient_at_the_positions_are_those_of_the_whole_model(
    family: str, choice: str, case: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """In float64, so that float noise hides nothing."""
    positions, index = CHOICES[choice]
    split = tiny_split(tiny_models[family], **CASES[case])
    split.model.double()
    whole = whole_model(split, tiny_models[family], tmp_path).double()
    expected = logits_at(whole, split, index)
    loss_of(expected).backward()  # type: ignore[no-untyped-call]
    logits = split.tail(hidden_at_the_cut(split, SAMPLES, ROWS), positions)
    assert logits.shape == ((*index.shape, CLASSES) if isinstance(positions, Tensor) else (len(ROWS), CLASSES))
    logits = logits.view(*index.shape, CLASSES)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    loss_of(logits).backward()  # type: ignore[no-untyped-call]
    truth = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for name, gradient in gradients_by_peft_name(split).items():
        assert truth[name] is not None
        # The first token of a decoder sees itself alone: the gradient of its query is zero but for rounding.
        assert float((gradient - truth[name]).norm()) < 1e-9 * max(float(truth[name].norm()), 1e-6), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_is_the_position_that_the_classifier_of_transformers_reads(
    family: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    split = tiny_split(tiny_models[family])
    ids, mask, _ = padded_batch(SAMPLES, ROWS)
    expected = whole_model(split, tiny_models[family], tmp_path)(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(split.tail(hidden_at_the_cut(split, SAMPLES, ROWS)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_all_tokens_at_the_positions(family: str, choice: str, tiny_models: dict[str, Path]) -> None:
    """And LoRA's own dropout, with a probability that drops nothing, makes keys and values and changes nothing."""
    positions, index = CHOICES[choice]
    split = tiny_split(tiny_models[family], layers="last:2", targets=EVERY, dropout=1e-12)
    batch = hidden_at_the_cut(split, SAMPLES, ROWS)
    every = torch.arange(batch.hidden.shape[1]).expand(len(ROWS), -1)
    with torch.no_grad():
        whole = split.states(batch, every)
        flat = (every.numel(), HIDDEN) if split.family.decoder is not None else (*every.shape, HIDDEN)
        assert whole.shape == flat
        expected = whole.view(*every.shape, HIDDEN).gather(1, index[..., None].expand(-1, -1, HIDDEN))
        if split.family.decoder is not None:
            expected = expected.flatten(0, 1)
        torch.testing.assert_close(split.states(batch, positions), expected, rtol=1e-5, atol=1e-5)
        split.train_mode(True)
        torch.testing.assert_close(split.states(batch, positions), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_is_near_the_full_one(family: str, choice: str, tiny_models: dict[str, Path]) -> None:
    positions, _ = CHOICES[choice]
    split = tiny_split(tiny_models[family], targets=EVERY)
    batch = hidden_at_the_cut(split, SAMPLES, ROWS)
    with torch.no_grad():
        full = split.states(batch, positions)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = split.states(batch, positions).float()
    assert float((mixed - full).norm()) < 0.05 * float(full.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_mixed_precision_are_as_near_the_truth_as_those_of_peft(
    family: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """The truth is in float32. Single tensors are far off with either (``docs/log.md``), so the mean over all is compared."""
    split = tiny_split(tiny_models[family], layers="all", targets=EVERY)
    whole = whole_model(split, tiny_models[family], tmp_path)
    ids, mask, _ = padded_batch(SAMPLES, ROWS)
    batch = hidden_at_the_cut(split, SAMPLES, ROWS)

    def of_peft(mixed: bool) -> dict[str, Tensor]:
        whole.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits = whole(input_ids=ids, attention_mask=mask).logits.float()
        loss_of(logits[:, None]).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in whole.named_parameters() if p.grad is not None}

    truth, theirs = of_peft(False), of_peft(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = split.tail(batch).float()
    loss_of(logits[:, None]).backward()  # type: ignore[no-untyped-call]
    ours = gradients_by_peft_name(split)

    def mean_error(found: dict[str, Tensor]) -> float:
        return sum(float((found[name] - truth[name]).norm() / truth[name].norm()) for name in ours) / len(ours)

    assert 0 < mean_error(ours) < 1.2 * mean_error(theirs)
