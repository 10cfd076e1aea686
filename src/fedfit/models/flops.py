"""Floating-point operations of what really runs: the trunk once, and the tail forward and backward. Starts without torch.

Counted as ``torch.utils.flop_counter.FlopCounterMode`` does: two operations for a multiply-add, matrix products and attention
alone; not element-wise work, norms, softmax, embeddings or the optimiser. ``tests/models/test_cost.py`` holds the counts to
torch's own, to the integer. What is and is not done (``split.py``, ``last_layer.py``, ``fused_lora.py``):

- the trunk goes forward only; nothing below the first adapted matrix gets a gradient, and no frozen weight does;
- a layer above the cut passes gradients through, adapted or not;
- the last layer is computed at the positions that the task reads; where that is one a row, an encoder's keys and values of the
  other tokens are never made, unless LoRA's own dropout acts on them; a decoder's are always made, and GPT-2's queries with
  them;
- attention is counted whole, as if every token saw every other: the counter does so, and a causal kernel may do half;
- a language model's logits are made for the positions that are read, once, and in training the product of their gradient;
- attention's backward pass is the fused kernel's: the scores once more, and all three gradients. A family without a fused
  kernel keeps the scores and makes only the gradients that are asked for. So does a fused one on a CPU with
  ``training.dropout``, which is not counted: a layer does ``2·n²·hidden`` less than counted, the lowest perhaps more.

A product of rank r has r as one of its three dimensions, so every count is affine in the rank. Tokens are those that are
computed: the tail takes a padded batch, so a sample there costs as much as the longest of its batch; the trunk takes batches of
one length. The copies that fill up a trunk batch below 64 tokens are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfit.models.cost import AdaptedShape
from fedfit.models.shape import Matrix, ModelShape

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


def step_flops(shape: AdaptedShape, tokens: int | np.ndarray, trunk: bool, positions: int | np.ndarray = 1) -> Affine:
    """One sample's forward and backward pass in the tail, with the trunk's forward pass when ``trunk`` is true.

    A step over a batch costs the sum over its samples and ``batch_flops`` once. Where a batch is padded, give ``tokens`` of the
    longest, and take the trunk with the sample's own tokens from ``trunk_flops``.

    Args:
        tokens: of the sample; one number, or an array with one a sample, of which the answer is an array alike.
        positions: read by the task in each row; an array only of a decoder, whose last layer makes all keys in any case.
    """
    return _tail(shape, _whole(tokens), positions) + _trunk_if(trunk, shape, tokens)


def trunk_flops(shape: AdaptedShape, tokens: int | np.ndarray) -> Count:
    """One sample's forward pass through the trunk; with the cut at 0 the maps of the embeddings, where a family has some."""
    count = _whole(tokens)
    layer = _layer(shape.model, frozenset(), count, passes=False)[0]
    return shape.cut * layer.fixed + count * sum(2 * matrix.outputs * matrix.inputs for matrix in shape.model.embedding)


def batch_flops(shape: AdaptedShape, positions: int = 1) -> Affine:
    """A training step's cost whatever its samples: the last layer's ``W0 + s·B·A`` for key and value, both ways."""
    if _makes_keys(shape, positions):
        return Affine(0, 0)
    adapted = shape.targets_of(shape.model.layers - 1)
    sizes = (2 * matrix.outputs * matrix.inputs for matrix in shape.model.projections[1:] if matrix.name in adapted)
    return Affine(0, sum(_product(size, True, True) for size in sizes))


def _whole(tokens: int | np.ndarray) -> Count:
    """Wide enough: tokens are often ``int32``, and the count of one long sample is not."""
    return tokens.astype(np.int64) if isinstance(tokens, np.ndarray) else int(tokens)


def _trunk_if(wanted: bool, shape: AdaptedShape, tokens: int | np.ndarray) -> Affine:
    return Affine(trunk_flops(shape, tokens) if wanted else 0, 0)


def _tail(shape: AdaptedShape, tokens: Count, positions: Count) -> Affine:
    total, passes = Affine(tokens * 0, tokens * 0), False
    for number in range(shape.cut, shape.model.layers - 1):
        layer, passes = _layer(shape.model, shape.targets_of(number), tokens, passes)
        total += layer
    return total + _last_layer(shape, tokens, positions, passes) + _head(shape, positions)


def _layer(model: ModelShape, adapted: frozenset[str], tokens: Count, passes: bool) -> tuple[Affine, bool]:
    """A layer over all its tokens, and whether its output has a gradient; ``passes``: whether its input has."""
    total = Affine(0, 0)
    for matrix in model.projections:
        total += _linear(tokens, matrix, passes, matrix.name in adapted)
    gradients = [passes or matrix.name in adapted for matrix in model.projections]
    total += _attention(tokens, tokens, model.width, gradients, model.fused)
    rest, passes_on = _after_attention(model, adapted, tokens, any(gradients))
    return total + rest, passes_on


def _last_layer(shape: AdaptedShape, tokens: Count, positions: Count, passes: bool) -> Affine:
    """The last layer at ``positions``. Its output has a gradient in any case: some layer below or itself is adapted."""
    model, adapted = shape.model, shape.targets_of(shape.model.layers - 1)
    query, *others = model.projections
    total = _linear(positions if others else tokens, query, passes, query.name in adapted)
    gradients = [passes or matrix.name in adapted for matrix in model.projections]
    if _makes_keys(shape, positions):
        for matrix in others:
            total += _linear(tokens, matrix, passes, matrix.name in adapted)
        total += _attention(positions, tokens, model.width, gradients, fused=True)
    else:
        total += _attention_from_one(model, adapted, tokens, passes)
    return total + _after_attention(model, adapted, positions, any(gradients))[0]


def _after_attention(model: ModelShape, adapted: frozenset[str], rows: Count, passes: bool) -> tuple[Affine, bool]:
    total = Affine(0, 0)
    for stage in model.stages:
        for matrix in stage:
            total += _linear(rows, matrix, passes, matrix.name in adapted)
        passes = passes or any(matrix.name in adapted for matrix in stage)
    return total, passes


def _attention_from_one(model: ModelShape, adapted: frozenset[str], tokens: Count, passes: bool) -> Affine:
    """The four products of ``last_layer._attend_from_one``, in its order; each flag is a factor with a gradient."""
    trains_query, trains_key, trains_value = (matrix.name in adapted for matrix in model.projections)
    project, sweep = 2 * model.width * model.hidden, 2 * model.heads * model.hidden * tokens
    row = passes or trains_query
    direction = row or trains_key  # and with it scores, shares and the mix of the tokens
    total = _product(project, row, trains_key) + 2 * _product(sweep, direction, passes)
    return Affine(total + _product(project, direction, trains_value), 0)


def _makes_keys(shape: AdaptedShape, positions: Count) -> bool:
    """Whether a step's last layer makes keys and values of all tokens."""
    adapted = shape.targets_of(shape.model.layers - 1)
    dropped = shape.drops_input and any(matrix.name in adapted for matrix in shape.model.projections[1:])
    return shape.model.decoder or positions > 1 or dropped


def _head(shape: AdaptedShape, positions: Count) -> Affine:
    pooler = sum(_product(2 * matrix.outputs * matrix.inputs, True) for matrix in shape.model.pooler)
    head = sum(_product(2 * matrix.outputs * matrix.inputs, True, shape.head_trained) for matrix in shape.model.head)
    return Affine(positions * (pooler + head), 0)


def _product(operations: Count, *gradients: bool) -> Count:
    """A matrix product of so many operations, and one more as large for each factor that has a gradient."""
    return operations * (1 + sum(gradients))


def _linear(rows: Count, matrix: Matrix, passes: bool, lora: bool) -> Affine:
    """A frozen map over ``rows`` rows ``x`` and, with ``lora``, ``u = x Aᵀ`` and ``u Bᵀ``; A, B and u have a gradient.

    Args:
        passes: whether ``x`` has one.
    """
    d, k = matrix.size
    low_rank = _product(2 * rows * k, passes, True) + _product(2 * rows * d, True, True) if lora else 0
    return Affine(_product(2 * rows * d * k, passes), low_rank)


def _attention(queries: Count, tokens: Count, width: int, gradients: Sequence[bool], fused: bool) -> Affine:
    """Scores and mix over all heads, two products, and those of the backward pass.

    The fused kernel makes the scores anew and the gradients of query, key and value when one of them is asked for: five.
    Without it, each gradient that is asked for is a product, and the shares have one with the query or the key.

    Args:
        gradients: whether query, key and value have one.
    """
    query, key, value = gradients if len(gradients) == 3 else 3 * list(gradients)
    backward = 5 * any(gradients) if fused else query + key + value + (query or key)
    return Affine(2 * queries * tokens * width * (2 + backward), 0)
