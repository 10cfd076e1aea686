"""The oracle of language models: the loss and the gradients of transformers and PEFT over separate, right-padded texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from fedfit.adapters.lora import save_adapter
from fedfit.data.tokenize import Samples
from fedfit.models.batch import Batch
from fedfit.models.split import SplitModel
from tests.builders import VOCABULARY


@dataclass(frozen=True)
class Tree:
    """A prompt and its continuations, as token ids."""

    prompt: list[int]
    continuations: list[list[int]]

    @property
    def texts(self) -> list[list[int]]:
        """Each continuation behind the prompt, as a text of its own."""
        return [self.prompt + each for each in self.continuations]


def random_trees(count: int, continuations: Sequence[int], seed: int = 0) -> list[Tree]:
    """``count`` trees with a number of continuations of ``continuations`` in turn; lengths from 1 to 7."""
    rng = np.random.default_rng(seed)

    def draw() -> list[int]:
        return [int(number) for number in rng.integers(5, VOCABULARY, int(rng.integers(1, 8)))]

    return [Tree(draw(), [draw() for _ in range(continuations[row % len(continuations)])]) for row in range(count)]


def samples_of(trees: Sequence[Tree]) -> Samples:
    """The trees as samples: segment 0 is the prompt, ``j`` the j-th continuation."""
    ids = [tree.prompt + [token for each in tree.continuations for token in each] for tree in trees]
    marks = [[0] * len(tree.prompt) + [j for j, each in enumerate(tree.continuations, 1) for _ in each] for tree in trees]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    flat, segments = np.concatenate(ids).astype(np.int32), np.concatenate(marks).astype(np.int8)
    hashes = [xxhash.xxh3_128(flat[a:b].tobytes() + segments[a:b].tobytes()).digest() for a, b in pairwise(offsets)]
    return Samples(flat, segments, offsets, None, hashes)


def read(trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
    """The positions ``(batch, P)`` that predict the continuations' tokens, -1 for none, and these tokens, row by row."""
    rows, wanted = [], []
    for tree in trees:
        row, start = [], len(tree.prompt)
        for each in tree.continuations:
            row += [len(tree.prompt) - 1, *range(start, start + len(each) - 1)]
            wanted += each
            start += len(each)
        rows.append(torch.tensor(row))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1), torch.tensor(wanted)


def whole_language_model(split: SplitModel, base: Path, folder: Path) -> Any:
    """PEFT's load of the saved adapter onto a fresh base model: no code of ours is in its forward pass."""
    save_adapter(split.model, folder, str(base))
    fresh = AutoModelForCausalLM.from_pretrained(base)
    return PeftModel.from_pretrained(fresh, str(folder), is_trainable=True).eval()


def peft_log_probs(whole: Any, trees: Sequence[Tree]) -> Tensor:
    """Of every token of every continuation: ``(n,)``, from the padded batch of separate texts."""
    texts = [text for tree in trees for text in tree.texts]
    prompts = [len(tree.prompt) for tree in trees for _ in tree.continuations]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    log_probs = whole(input_ids=ids, attention_mask=mask).logits.log_softmax(dim=-1)
    found = []
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        found.append(log_probs[row, prompt - 1 : len(text) - 1].gather(1, torch.tensor(text[prompt:])[:, None])[:, 0])
    return torch.cat(found)


def batch_of(split: SplitModel, trees: Sequence[Tree]) -> Batch:
    """The trunk of each tree alone, in the model's own precision, padded with zeros."""
    samples = samples_of(trees)
    states, marks = [], []
    for row in range(len(trees)):
        found = samples.segments_of(row)
        assert found is not None
        marks.append(torch.from_numpy(found).long())
        states.append(split.trunk(torch.from_numpy(samples.ids_of(row)).long()[None], marks[-1][None])[0])
    segments = torch.nn.utils.rnn.pad_sequence(marks, batch_first=True, padding_value=-1)
    hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    return Batch(hidden, torch.tensor([len(state) for state in states]), segments)
