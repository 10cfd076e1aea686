"""The contract of a family: where a model's parts are, how they are called, and the sizes that follow from a configuration.

A family is data and a few short functions over the modules of transformers, which stay as they are: PEFT has put its LoRA
modules in place of the adapted linear maps, and a call of those is a call of the adapted model. The functions only read
attributes and call modules, so a family's file starts without torch.

Shapes: hidden ``(batch, tokens, hidden)``; states ``(batch, positions, hidden)``, of the positions that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from fedfit.models.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

    from fedfit.models.last_layer import LayerInputs


def _call_with_mask(layer: Any, hidden: Tensor, inputs: LayerInputs) -> Tensor:
    return cast("Tensor", layer(hidden, inputs.mask))


def _states_as_they_are(model: Any, states: Tensor) -> Tensor:
    return states


@dataclass(frozen=True)
class Family:
    """One family of models, as ``config.model_type`` of transformers names it."""

    name: str
    encoder: str
    """The module of a classifier that holds embeddings and layers."""
    layers: str
    """The list of layers in the encoder."""
    attention: str
    """The self-attention of a layer, whose ``dropout`` acts on the shares."""
    targets: Mapping[str, str]
    """Our name of an adaptable matrix → its module in a layer, in the order of the data. Query, key and value are the first."""
    head_modules: tuple[str, ...]
    """The modules above the encoder that are trained and sent as the head, as PEFT's ``modules_to_save``."""
    shape: Callable[[Any, int], ModelShape]
    """Configuration and number of labels → the model's sizes."""
    embed: Callable[[Any, Tensor, Tensor | None], Tensor]
    """Encoder, token ids, segment ids → hidden states below the first layer."""
    after_attention: Callable[[Any, Tensor, Tensor], Tensor]
    """Layer, context ``(batch, positions, width)``, the layer's input at these positions → the layer's output there."""
    head: Callable[[Any, Tensor], Tensor]
    """Model and pooled states → logits ``(batch, labels)``, of one position a row."""
    pool: Callable[[Any, Tensor], Tensor] = _states_as_they_are
    """Model and states ``(batch, 1, hidden)`` → what the head takes, through frozen modules alone."""
    pooler: str = ""
    """The module of the encoder above its layers, if it has one."""
    layer: Callable[[Any, Tensor, LayerInputs], Tensor] = _call_with_mask
    """A whole layer."""
    score_bias: Callable[[Any, Tensor], Tensor] | None = None
    """Encoder and hidden states → ``(1, heads, tokens, tokens)``, added to the attention scores of every layer."""
    reads: Literal["first", "last"] = "first"
    """The position that transformers' classifier of this family reads."""
    kernel: Literal["sdpa", "eager"] = "sdpa"
    """The attention that transformers has for it."""

    @property
    def projections(self) -> tuple[str, str, str]:
        """The modules of query, key and value in a layer."""
        query, key, value, *_ = self.targets.values()
        return query, key, value
