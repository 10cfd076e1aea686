"""Floating-point operations of what really runs: the trunk once, and the tail forward and backward. Starts without torch.

Counted as ``torch.utils.flop_counter.FlopCounterMode`` does: two operations for a multiply-add, matrix products and attention
alone; not element-wise work, norms, softmax, embeddings or the optimiser. ``tests/models/test_cost.py`` holds the counts to
torch's own, to the integer. What is and is not done (``split.py``, ``first_token.py``, ``fused_lora.py``):

- the trunk goes forward only; nothing below the first adapted matrix gets a gradient, and no frozen weight does;
- a layer above the cut passes gradients through, adapted or not;
- the last layer is computed at its first token; keys and values of the other tokens are never made, unless LoRA's own dropout
  acts on them;
- attention's backward pass is the fused kernel's: the scores once more, and all three gradients. Where there is none (on a CPU
  with ``training.dropout``) the scores are kept, and a layer does ``2·n²·hidden`` less than counted, the lowest perhaps more.

A product of rank r has r as one of its three dimensions, so every count is affine in the rank. Tokens are those that are
computed: the tail takes a padded batch, so a sample there costs as much as the longest of its batch; the trunk takes batches of
one length. The copies that fill up a trunk batch below 64 tokens are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfit.models.cost import ModelShape, head_matrices

Count = Any
"""An ``int``, or an ``int64`` array with one number a sample."""


@dataclass(frozen=True)
class Affine:
    """``fixed + per_rank · rank``: operations as a function of the LoRA rank; integers, or arrays of them."""

    fixed: Count
    per_rank: Count

    def at(self, rank: Count) -> Count:
        """The count at ``rank``."""
        return self.fixed + self.per_rank * rank

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.fixed + other.fixed, self.per_rank + other.per_rank)


def step_flops(shape: ModelShape, tokens: int | np.ndarray, trunk: bool) -> Affine:
    """One sample's forward and backward pass in the tail, with the trunk's forward pass when ``trunk`` is true.

    A step over a batch costs the sum over its samples and ``batch_flops`` once. Where a batch is padded, give ``tokens`` of the
    longest, and take the trunk with the sample's own tokens from ``trunk_flops``.

    Args:
        tokens: of the sample; one number, or an array with one a sample, of which the answer is an array alike.
    """
    return _tail(shape, _whole(tokens), train=True) + _trunk_if(trunk, shape, tokens)


def evaluation_flops(shape: ModelShape, tokens: int | np.ndarray, trunk: bool) -> Affine:
    """One sample's forward pass in the tail, without gradients; else as ``step_flops``, with ``evaluation_batch_flops``."""
    return _tail(shape, _whole(tokens), train=False) + _trunk_if(trunk, shape, tokens)


def trunk_flops(shape: ModelShape, tokens: int | np.ndarray) -> Count:
    """One sample's forward pass through the trunk; 0 when only the embeddings lie below the cut."""
    count = _whole(tokens)
    layer = _layer(shape, frozenset(), count, passes=False, train=False)[0]
    return shape.cut * layer.fixed + count * 0


def batch_flops(shape: ModelShape) -> Affine:
    """What a training step does once, however many samples: the last layer's ``W0 + s·B·A`` for key and value, both ways."""
    return Affine(0, 0) if _plain_attention(shape, train=True) else _effective_weights(shape, train=True)


def evaluation_batch_flops(shape: ModelShape) -> Affine:
    """What a batch of the evaluation does once; see ``batch_flops``."""
    return _effective_weights(shape, train=False)


def _whole(tokens: int | np.ndarray) -> Count:
    """Wide enough: tokens are often ``int32``, and the count of one long sample is not."""
    return tokens.astype(np.int64) if isinstance(tokens, np.ndarray) else int(tokens)


def _trunk_if(wanted: bool, shape: ModelShape, tokens: int | np.ndarray) -> Affine:
    return Affine(trunk_flops(shape, tokens) if wanted else 0, 0)


def _tail(shape: ModelShape, tokens: Count, train: bool) -> Affine:
    total, passes = Affine(tokens * 0, tokens * 0), False
    for number in range(shape.cut, shape.layers - 1):
        layer, passes = _layer(shape, shape.targets_of(number), tokens, passes, train)
        total += layer
    return total + _last_layer(shape, tokens, passes, train) + _head(shape, train)


def _layer(shape: ModelShape, adapted: frozenset[str], tokens: Count, passes: bool, train: bool) -> tuple[Affine, bool]:
    """A layer over all its tokens, and whether its output has a gradient; ``passes``: whether its input has."""
    total = Affine(0, 0)
    for target in ("query", "key", "value"):
        total += _linear(tokens, shape.matrix(target), passes, target in adapted, train)
    attended = passes or _trains(adapted, ("query", "key", "value"), train)
    total += _attention(tokens, tokens, shape.hidden, attended)
    rest, passes_on = _after_attention(shape, adapted, tokens, attended, train)
    return total + rest, passes_on


def _last_layer(shape: ModelShape, tokens: Count, passes: bool, train: bool) -> Affine:
    """The last layer at its first token. There always is a gradient behind it: some layer below or itself is adapted."""
    adapted = shape.targets_of(shape.layers - 1)
    total = _linear(1, shape.matrix("query"), passes, "query" in adapted, train)
    if _plain_attention(shape, train):
        for target in ("key", "value"):
            total += _linear(tokens, shape.matrix(target), passes, target in adapted, train)
        total += _attention(1, tokens, shape.hidden, True)  # plain only in training, with key or value adapted
    else:
        total += _first_token_attention(shape, adapted, tokens, passes, train)
    attended = passes or _trains(adapted, ("query", "key", "value"), train)
    return total + _after_attention(shape, adapted, 1, attended, train)[0]


def _after_attention(shape: ModelShape, adapted: frozenset[str], rows: Count, passes: bool, train: bool) -> tuple[Affine, bool]:
    total = Affine(0, 0)
    for target in ("attention_output", "intermediate", "output"):
        total += _linear(rows, shape.matrix(target), passes, target in adapted, train)
        passes = passes or _trains(adapted, (target,), train)
    return total, passes


def _first_token_attention(shape: ModelShape, adapted: frozenset[str], tokens: Count, passes: bool, train: bool) -> Affine:
    """The four products of ``first_token.first_token_attention``, in its order; each flag is a factor with a gradient."""
    square, sweep = 2 * shape.hidden**2, 2 * shape.heads * shape.hidden * tokens
    row = passes or _trains(adapted, ("query",), train)
    direction = row or _trains(adapted, ("key",), train)  # and with it scores, shares and the mix of the tokens
    total = _product(square, row, _trains(adapted, ("key",), train))
    total += 2 * _product(sweep, direction, passes)
    total += _product(square, direction, _trains(adapted, ("value",), train))
    return Affine(total, 0)


def _effective_weights(shape: ModelShape, train: bool) -> Affine:
    adapted = shape.targets_of(shape.layers - 1) & {"key", "value"}
    return Affine(0, len(adapted) * _product(2 * shape.hidden**2, train, train))


def _plain_attention(shape: ModelShape, train: bool) -> bool:
    return train and shape.drops_input and bool(shape.targets_of(shape.layers - 1) & {"key", "value"})


def _head(shape: ModelShape, train: bool) -> Affine:
    pooler = _product(2 * shape.hidden**2, train) if shape.family == "bert" else 0
    maps = (_product(2 * d * k, train, train and shape.head_trained) for d, k in head_matrices(shape))
    return Affine(pooler + sum(maps), 0)


def _trains(adapted: frozenset[str], targets: tuple[str, ...], train: bool) -> bool:
    return train and not adapted.isdisjoint(targets)


def _product(operations: Count, *gradients: bool) -> Count:
    """A matrix product of so many operations, and one more as large for each factor that has a gradient."""
    return operations * (1 + sum(gradients))


def _linear(rows: Count, matrix: tuple[int, int], passes: bool, lora: bool, train: bool) -> Affine:
    """A frozen map over ``rows`` rows ``x`` and, with ``lora``, ``u = x Aᵀ`` and ``u Bᵀ``.

    Args:
        matrix: output and input dimension ``(d, k)``.
        passes: whether ``x`` has a gradient.
        train: whether A and B, and with them u, have one.
    """
    d, k = matrix
    low_rank = _product(2 * rows * k, passes, train) + _product(2 * rows * d, train, train) if lora else 0
    return Affine(_product(2 * rows * d * k, passes), low_rank)


def _attention(queries: Count, tokens: Count, hidden: int, passes: bool) -> Affine:
    """Scores and mix over all heads, two products; backward five, as the fused kernel makes the scores anew.

    It makes the gradients of query, key and value when ``passes``, that is when one of them is asked for, or none.
    """
    return Affine(2 * queries * tokens * hidden * (7 if passes else 2), 0)
