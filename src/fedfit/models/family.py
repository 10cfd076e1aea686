"""The contract of a family: where a model's parts are, how they are called, and the sizes that follow from a configuration.

A family is data and a few short functions over the modules of transformers, which stay as they are: PEFT has put its LoRA
modules in place of the adapted linear maps, and a call of those is a call of the adapted model. The functions only read
attributes and call modules, so a family's file starts without torch.

Shapes: hidden ``(batch, tokens, hidden)``; states of the positions that are read, an encoder's ``(batch, positions, hidden)``,
a decoder's ``(n, hidden)``: those of all rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from fedfit.errors import Fault
from fedfit.models.shape import Matrix, ModelShape

if TYPE_CHECKING:
    from torch import Tensor

    from fedfit.models.layer_inputs import LayerInputs


def _call_with_mask(layer: Any, hidden: Tensor, inputs: LayerInputs) -> Tensor:
    return cast("Tensor", layer(hidden, inputs.mask))


def _states_as_they_are(model: Any, states: Tensor) -> Tensor:
    return states


def _nothing(config: Any) -> Fault | None:
    return None


@dataclass(frozen=True)
class LayerKind:
    """What the layers of a decoder may differ in."""

    name: str = "full_attention"
    """That of transformers."""
    window: int | None = None
    """Tokens that one sees, itself included; ``None``: all before it."""


@dataclass(frozen=True)
class Decoder:
    """What a family of causal language models says beside the rest."""

    kinds: Callable[[Any], Sequence[LayerKind]]
    """Configuration → the kind of each layer."""
    norm: str
    """The module of a layer that its input goes through before query, key and value."""
    rotary: Callable[[Any, Tensor, Tensor, str], tuple[Tensor, Tensor] | None]
    """Encoder, hidden, positions ``(1 or batch, tokens)`` and the name of a layer's kind → cosine and sine of the angles."""
    head: str = "lm_head"
    """The map from states to logits of the vocabulary, of a language model."""


@dataclass(frozen=True)
class Family:
    """One family of models, as ``config.model_type`` of transformers names it."""

    name: str
    encoder: str
    """The module of a model that holds embeddings and layers, also where these decode."""
    layers: str
    """The list of layers in the encoder."""
    attention: str
    """The self-attention of a layer, whose ``dropout`` acts on the shares."""
    targets: Mapping[str, str]
    """Our name of an adaptable matrix → its module in a layer, in the order of the data. Query, key and value are the first."""
    head_modules: tuple[str, ...]
    """The modules above the encoder that are trained and sent as the head, as PEFT's ``modules_to_save``."""
    shape: Callable[[Any, int], ModelShape]
    """Configuration and number of labels → the sizes of a classifier; see ``shape_of``."""
    embed: Callable[[Any, Tensor, Tensor | None], Tensor]
    """Encoder, token ids, and an encoder's segments or a decoder's positions → hidden states below the first layer."""
    after_attention: Callable[[Any, Tensor, Tensor], Tensor]
    """Layer, context ``(…, width)`` of the positions that are read, the layer's input there → the layer's output there."""
    head: Callable[[Any, Tensor], Tensor]
    """Model and pooled states → logits ``(batch, labels)``, of one position a row."""
    pool: Callable[[Any, Tensor], Tensor] = _states_as_they_are
    """Model and states ``(batch, 1, hidden)`` → what the head takes, through frozen modules alone."""
    pooler: str = ""
    """The module of the encoder above its layers, if it has one."""
    layer: Callable[[Any, Tensor, LayerInputs], Tensor] = _call_with_mask
    """A whole layer of an encoder; a decoder's is put together in ``models/decoder_layer.py``."""
    score_bias: Callable[[Any, Tensor], Tensor] | None = None
    """Encoder and hidden states → ``(1, heads, tokens, tokens)``, added to the attention scores of every layer."""
    reads: Literal["first", "last"] = "first"
    """The position that transformers' classifier of this family reads."""
    kernel: Literal["sdpa", "eager"] = "sdpa"
    """The attention that transformers has for it."""
    projections: tuple[str, ...] = ("query", "key", "value")
    """The targets that make query, key and value of a layer; one where they are one matrix."""
    decoder: Decoder | None = None
    """Of a causal model, whose tokens see those before them alone; ``None``: an encoder."""
    unlike: Callable[[Any], Fault | None] = _nothing
    """Configuration → the key by which transformers computes something else than is computed here; ``None``: no key does."""

    def shape_of(self, config: Any, labels: int | None) -> ModelShape:
        """The sizes of a classifier, or, with ``None``, of a language model."""
        if labels is not None:
            return self.shape(config, labels)
        assert self.decoder is not None, f"{self.name} has no language-model head"
        shape = self.shape(config, 1)
        words = Matrix(self.decoder.head, int(config.vocab_size), shape.hidden, bias=False)
        return replace(shape, head=(words,), language=True)

    @property
    def projection_modules(self) -> tuple[str, ...]:
        """The modules of ``projections`` in a layer."""
        return tuple(self.targets[name] for name in self.projections)

    def writes(self, model: Any) -> bool:
        """Whether ``model`` has the head of a language model, in place of a classifier's."""
        return self.decoder is not None and hasattr(model, self.decoder.head)

    def heads_of(self, model: Any) -> tuple[str, ...]:
        """The modules that are trained and sent as the head; a language model's own head is frozen."""
        return () if self.writes(model) else self.head_modules
