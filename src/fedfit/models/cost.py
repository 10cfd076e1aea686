"""The sizes of a model and its adapter that costs depend on, and the parameters that are trained and sent.

Read from a configuration of transformers by attribute; this file starts without torch, so that a fleet can be planned without
it. What the products cost is in ``models/flops.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fedfit.errors import ModelError
from fedfit.models.layers import select_layers
from fedfit.settings import AdapterSettings

TARGETS = ("query", "key", "value", "attention_output", "intermediate", "output")
"""The matrices of a layer, by our names; those of ``models/families.py``, which cannot be imported without torch."""

HEAD_LAYERS: Mapping[str, int] = MappingProxyType({"bert": 1, "roberta": 2, "distilbert": 2})
"""Family → linear maps that are trained and sent as the head: the last one gives the logits, another is square."""


@dataclass(frozen=True)
class ModelShape:
    """What a count needs to know of a model with its adapter; build it with ``model_shape``."""

    family: str
    hidden: int
    intermediate: int
    """Width between the two maps of the feed-forward part."""
    heads: int
    layers: int
    """Layers of the encoder, adapted or not."""
    adapted: tuple[int, ...]
    """The adapted layers, ascending, from 0."""
    targets: tuple[str, ...]
    """The adapted matrices of an adapted layer, of ``TARGETS``."""
    labels: int
    head_trained: bool
    drops_input: bool
    """Whether the factors' input is dropped out in training: keys and values of the last layer are then made in full."""

    @property
    def cut(self) -> int:
        """Layers of the trunk; 0 leaves only the embeddings there."""
        return self.adapted[0]

    def targets_of(self, layer: int) -> frozenset[str]:
        """The adapted matrices of ``layer``, which may be none."""
        return frozenset(self.targets) if layer in self.adapted else frozenset()

    def matrix(self, target: str) -> tuple[int, int]:
        """The output and the input dimension ``(d, k)`` of the matrix ``target``."""
        return {"intermediate": (self.intermediate, self.hidden), "output": (self.hidden, self.intermediate)}.get(
            target, (self.hidden, self.hidden)
        )


def model_shape(config: Any, adapter: AdapterSettings, labels: int) -> ModelShape:
    """The shape of the model of ``config``, a configuration of transformers, with ``adapter`` and ``labels`` outputs.

    Raises:
        ModelError: for a family that cannot be split.
        ValueError: for layers or targets that the model does not have.
    """
    if config.model_type not in HEAD_LAYERS:
        raise ModelError(f"nothing is known of the family {config.model_type!r}; supported: {', '.join(sorted(HEAD_LAYERS))}")
    unknown = [target for target in adapter.targets if target not in TARGETS]
    if unknown or len(set(adapter.targets)) != len(adapter.targets):
        raise ValueError(f"adapter.targets = {list(adapter.targets)}: name each of {', '.join(TARGETS)} at most once")
    layers = int(config.num_hidden_layers)
    # DistilBERT's configuration answers to the common names of its sizes, but not to this one.
    intermediate = config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size
    return ModelShape(
        family=config.model_type,
        hidden=int(config.hidden_size),
        intermediate=int(intermediate),
        heads=int(config.num_attention_heads),
        layers=layers,
        adapted=select_layers(adapter.layers, layers),
        targets=adapter.targets,
        labels=labels,
        head_trained=adapter.head == "train",
        drops_input=adapter.dropout > 0,
    )


def adapted_matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """The output and input dimensions ``(d, k)`` of every adapted matrix, layer by layer."""
    return [shape.matrix(target) for _ in shape.adapted for target in shape.targets]


def factor_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of all LoRA factors: ``Σ r·(d + k)``. Equation 5 prints ``(r + k)·d·Â·l``, which is not LoRA's count."""
    return rank * sum(output_dim + input_dim for output_dim, input_dim in adapted_matrices(shape))


def head_matrices(shape: ModelShape) -> list[tuple[int, int]]:
    """Dimensions ``(d, k)`` of the linear maps that make up the head, trained or not; BERT's pooler is none of them."""
    square = [(shape.hidden, shape.hidden)] * (HEAD_LAYERS[shape.family] - 1)
    return [*square, (shape.labels, shape.hidden)]


def head_parameters(shape: ModelShape) -> int:
    """Parameters that are trained and sent beside the factors, biases included; 0 for a frozen head."""
    return sum(output_dim * (input_dim + 1) for output_dim, input_dim in head_matrices(shape)) if shape.head_trained else 0
