"""The sizes of a model that counts, checks and plans depend on. Starts without torch.

A family makes the shape of a model from its configuration (``models/family.py``). ``models/cost.py`` adds the adapter, and
``models/flops.py`` counts what runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Matrix:
    """A linear map by its name here: ``outputs`` rows, ``inputs`` columns, and usually a bias."""

    name: str
    outputs: int
    inputs: int
    bias: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """The output and the input dimension ``(d, k)``."""
        return self.outputs, self.inputs

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True)
class ModelShape:
    """A model without its adapter, made by its family from a configuration. All layers have the same matrices."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    """Fewer than ``heads`` where several queries share a key and a value."""
    projections: tuple[Matrix, ...]
    """Query, key and value, all of the layer's input; one matrix where they are made together."""
    stages: tuple[tuple[Matrix, ...], ...]
    """The maps after the attention, in their order; those of one stage have the same input."""
    head: tuple[Matrix, ...]
    """The maps that are trained and sent as the head; of a language model the frozen map to the vocabulary."""
    longest: int
    """The most tokens of a sample that the positions allow."""
    pooler: tuple[Matrix, ...] = ()
    """Frozen maps between the last layer and the head, of each position that is read."""
    embedding: tuple[Matrix, ...] = ()
    """Frozen maps below the first layer, of every token."""
    fused: bool = True
    """Whether a layer's attention is one fused operator, which makes its scores anew in the backward pass."""
    decoder: bool = False
    """Whether a token sees those before it alone. Keys and values of all tokens are then always made."""
    language: bool = False
    """Whether the head is that of a language model, which is frozen."""

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """The adaptable matrices of a layer by name, in the order of the data."""
        return {matrix.name: matrix for matrix in (*self.projections, *(one for stage in self.stages for one in stage))}

    @property
    def width(self) -> int:
        """Numbers that all heads' queries have together."""
        return self.projections[0].outputs // (3 if len(self.projections) == 1 else 1)


def square(name: str, size: int) -> Matrix:
    """A map from ``size`` numbers to as many."""
    return Matrix(name, size, size)


def encoder_shape(
    config: Any,
    head: tuple[Matrix, ...],
    *,
    intermediate: int | None = None,
    longest: int | None = None,
    pooler: tuple[Matrix, ...] = (),
    embedding: tuple[Matrix, ...] = (),
    fused: bool = True,
) -> ModelShape:
    """The shape of a BERT-like encoder, by the common names of the sizes in ``config``.

    Args:
        intermediate: width between the two maps of the feed-forward part; by default ``config.intermediate_size``.
        longest: by default ``config.max_position_embeddings``.
    """
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    width = int(intermediate or config.intermediate_size)
    return ModelShape(
        hidden=hidden,
        layers=int(config.num_hidden_layers),
        heads=heads,
        key_value_heads=heads,
        projections=(square("query", hidden), square("key", hidden), square("value", hidden)),
        stages=(
            (square("attention_output", hidden),),
            (Matrix("intermediate", width, hidden),),
            (Matrix("output", hidden, width),),
        ),
        head=head,
        longest=int(longest or config.max_position_embeddings),
        pooler=pooler,
        embedding=embedding,
        fused=fused,
    )


def decoder_shape(
    config: Any, labels: int, *, projections: tuple[Matrix, ...], stages: tuple[tuple[Matrix, ...], ...]
) -> ModelShape:
    """The shape of a decoder with a classifier of ``labels`` classes, by the common names of the sizes in ``config``."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    return ModelShape(
        hidden=hidden,
        layers=int(config.num_hidden_layers),
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        projections=projections,
        stages=stages,
        head=(Matrix("score", labels, hidden, bias=False),),
        longest=int(config.max_position_embeddings),
        decoder=True,
    )
