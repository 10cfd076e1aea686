"""A language model split at the cut is the whole model of transformers and PEFT: log-probabilities, loss and every gradient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModelForCausalLM
from torch import Tensor

from fedfit.core.update import HEAD
from fedfit.models.families import GENERATING
from fedfit.models.last_layer import Positions
from fedfit.models.layer_inputs import Sight, token_positions
from fedfit.models.split import SplitModel
from tests.builders import EVERY, lora_of, tiny_split, tiny_trunk
from tests.models.language import (
    Tree,
    batch_of,
    peft_log_probs,
    random_trees,
    read,
    samples_of,
    whole_language_model,
)
from tests.models.whole import gradients_by_peft_name

TREES = {
    "one": random_trees(7, (1,)),
    "two": random_trees(6, (2,), seed=1),
    "two and three": random_trees(6, (2, 3, 1), seed=2),
}
"""Rows of one, two or three continuations; mixed batches have ragged positions and padding."""
CASES: dict[str, dict[str, Any]] = {
    "last:2": {"layers": "last:2"},
    "last:1": {"layers": "last:1", "targets": EVERY},
    "first:2": {"layers": "first:2"},
    "middle:2": {"layers": "middle:2"},
    "all": {"layers": "all", "targets": EVERY},
    "1 and 3": {"layers": (1, 3), "targets": ("key", "attention_output", "intermediate")},
}


def language_model(folder: Path, **adapter: Any) -> SplitModel:
    return tiny_split(folder, labels=None, **adapter)


def our_log_probs(split: SplitModel, trees: Sequence[Tree]) -> Tensor:
    positions, wanted = read(trees)
    found: Tensor = split.tail(batch_of(split, trees), positions).log_probs(wanted)
    return found


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", GENERATING)
def test_log_probabilities_and_every_gradient_are_those_of_separate_texts_in_transformers_and_peft(
    family: str, case: str, kind: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """In float64, where 1e-6 tells every error from rounding: the norms of transformers round to float32 all the same."""
    trees = TREES[kind]
    split = language_model(tiny_models[family], **CASES[case])
    split.model.double()
    whole = whole_language_model(split, tiny_models[family], tmp_path).double()
    expected = peft_log_probs(whole, trees)
    (-expected.mean()).backward()  # type: ignore[no-untyped-call]
    found = our_log_probs(split, trees)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (-found.mean()).backward()  # type: ignore[no-untyped-call]
    compare(split, whole, 1e-6)


@pytest.mark.parametrize("kind", ["one", "two and three"])
@pytest.mark.parametrize("family", GENERATING)
def test_so_it_is_in_float32(family: str, kind: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Packed weights and the fused LoRA run here. The truth is PEFT's in float64; as much as PEFT itself loses in float32,
    thrice, is allowed as well."""
    trees = TREES[kind]
    split = language_model(tiny_models[family], layers="last:3", targets=EVERY)
    whole = whole_language_model(split, tiny_models[family], tmp_path)
    (-peft_log_probs(whole, trees).mean()).backward()  # type: ignore[no-untyped-call]
    rounded = {name: p.grad.double() for name, p in whole.named_parameters() if p.grad is not None}
    whole.zero_grad()
    loss = -peft_log_probs(whole.double(), trees).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    ours = -our_log_probs(split, trees).mean()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    ours.backward()  # type: ignore[no-untyped-call]
    compare(split, whole, 1e-5, rounded)


def compare(split: SplitModel, whole: Any, tolerance: float, rounded: dict[str, Tensor] | None = None) -> None:
    """Every gradient of ours against that of the same name, and no other tensor has one."""
    truth = {name: p.grad.double() for name, p in whole.named_parameters() if p.grad is not None}
    ours = gradients_by_peft_name(split)
    assert ours.keys() == truth.keys()
    for name, gradient in ours.items():
        size = float(truth[name].norm())
        assert size > 1e-7, f"{name} has no gradient, so nothing is compared"
        noise = 0.0 if rounded is None else float((rounded[name] - truth[name]).norm()) / size
        assert float((gradient - truth[name]).norm()) / size < max(tolerance, 3 * noise), name


@pytest.mark.parametrize("family", GENERATING)
def test_nothing_but_the_pairs_is_trained_and_saved(family: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    split = language_model(tiny_models[family])
    assert isinstance(split.model, PeftModelForCausalLM)
    assert HEAD not in split.adapter.groups
    assert not lora_of(split).head
    trained = {id(parameter) for parameter in split.model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in lora_of(split).parameters()}
    whole = whole_language_model(split, tiny_models[family], tmp_path)
    assert whole.peft_config["default"].modules_to_save is None
    assert whole.peft_config["default"].task_type == "CAUSAL_LM"


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("family", GENERATING)
def test_a_batch_is_the_same_bits_from_the_cache_and_without_it_whatever_is_computed_with_it(
    family: str, kind: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    split, trees = language_model(tiny_models[family], layers="last:2"), TREES[kind]
    samples, every = samples_of(trees), np.arange(len(trees))
    cached, plain = tiny_trunk(split, tmp_path), tiny_trunk(split, None)
    cached.prepare(samples, every[::2])
    cached.prepare(samples, every)
    warm, cold = cached.batch(samples, every), plain.batch(samples, every)
    assert torch.equal(warm.hidden, cold.hidden)
    assert warm.segments is not None
    assert cold.segments is not None
    assert torch.equal(warm.segments, cold.segments)
    for row in every:
        alone = plain.batch(samples, every[row : row + 1])
        length = int(alone.lengths[0])
        assert torch.equal(alone.hidden[0], cold.hidden[row, :length])
        assert torch.equal(cold.segments[row, :length], torch.from_numpy(np.asarray(samples.segments_of(int(row)))).long())
        assert bool((cold.segments[row, length:] == -1).all())


def test_positions_and_masks_of_a_tree_by_hand() -> None:
    """A prompt of two, continuations of two, one and two tokens, and one token of padding; a plain text beside it."""
    segments = torch.tensor([[0, 0, 1, 1, 2, 3, 3, -1], [0, 0, 0, 1, 1, 1, 1, 1]])
    positions = token_positions(segments, 8, segments.device)
    assert positions[0, :7].tolist() == [0, 1, 2, 3, 2, 2, 3]
    assert positions[1].tolist() == list(range(8))
    seen = Sight(positions, segments, None).whole()
    assert seen is not None
    assert [row.nonzero()[:, 0].tolist() for row in seen[0, 0][:7]] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 4],
        [0, 1, 5],
        [0, 1, 5, 6],
    ]
    assert torch.equal(seen[1, 0], torch.ones(8, 8, dtype=torch.bool).tril())
    near = Sight(positions, segments, 2).whole()
    assert near is not None
    assert [row.nonzero()[:, 0].tolist() for row in near[0, 0][:7]] == [[0], [0, 1], [1, 2], [2, 3], [1, 4], [1, 5], [5, 6]]
    assert torch.equal(near[:, :, [3, 6]], Sight(positions, segments, 2).of(torch.tensor([[3, 6], [3, 6]])))


def test_plain_texts_within_the_window_have_no_mask() -> None:
    positions = token_positions(torch.tensor([[0, 0, 1, 1, -1]]), 5, torch.device("cpu"))
    assert positions.tolist() == [[0, 1, 2, 3, 4]]
    assert Sight(positions, None, None).whole() is None
    assert Sight(positions, None, 5).whole() is None
    assert Sight(positions, None, 4).whole() is not None


@pytest.mark.parametrize("family", GENERATING)
def test_what_stands_in_the_padding_is_not_read(family: str, tiny_models: dict[str, Path]) -> None:
    split, trees = language_model(tiny_models[family], layers="last:3"), TREES["two and three"]
    batch, (positions, wanted) = batch_of(split, trees), read(trees)
    with torch.no_grad():
        expected = split.tail(batch, positions).log_probs(wanted)
        batch.hidden[torch.arange(batch.hidden.shape[1]) >= batch.lengths[:, None]] = 100.0
        torch.testing.assert_close(split.tail(batch, positions).log_probs(wanted), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", GENERATING)
def test_logits_are_those_of_transformers_at_any_position(family: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    split, trees = language_model(tiny_models[family]), TREES["one"]
    whole = whole_language_model(split, tiny_models[family], tmp_path)
    batch = batch_of(split, trees)
    choices: list[tuple[Positions | None, list[list[int]]]] = [
        (None, [[int(length) - 1] for length in batch.lengths]),
        ("first", [[0]] * len(trees)),
        (torch.tensor([[0, -1, 1]] * len(trees)), [[0, 1]] * len(trees)),
    ]
    for positions, rows in choices:
        readout = split.tail(batch, positions)
        expected = torch.cat(
            [whole(input_ids=torch.tensor(tree.texts)).logits[0, row] for tree, row in zip(trees, rows, strict=True)]
        )
        torch.testing.assert_close(readout.logits(slice(None)), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(readout.best(), expected.argmax(dim=1))
