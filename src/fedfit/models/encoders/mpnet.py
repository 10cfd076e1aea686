"""MPNet: Song et al., NeurIPS 2020, arXiv 2004.09297. The encoder computes a bias of relative positions, one for all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.models.encoders.roberta import two_maps, whole_head
from fedfit.models.family import Family
from fedfit.models.shape import ModelShape, encoder_shape

if TYPE_CHECKING:
    from torch import Tensor

    from fedfit.models.layer_inputs import LayerInputs


def _shape(config: Any, labels: int) -> ModelShape:
    longest = config.max_position_embeddings - 2  # the first two are the padding's, whatever config.pad_token_id
    return encoder_shape(config, two_maps(config, labels), longest=longest, fused=False)


def _embed(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    return cast("Tensor", encoder.embeddings(input_ids=ids))


def _score_bias(encoder: Any, hidden: Tensor) -> Tensor:
    return cast("Tensor", encoder.encoder.compute_position_bias(hidden[:1]))


def _layer(layer: Any, hidden: Tensor, inputs: LayerInputs) -> Tensor:
    return cast("Tensor", layer(hidden, inputs.additive_mask(hidden.dtype), inputs.bias)[0])


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attention = layer.attention
    attended = attention.LayerNorm(attention.dropout(attention.attn.o(context)) + residual)
    return cast("Tensor", layer.output(layer.intermediate(attended), attended))


MPNET = Family(
    name="mpnet",
    encoder="mpnet",
    layers="encoder.layer",
    attention="attention.attn",
    targets={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "attention_output": "attention.attn.o",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    },
    head_modules=("classifier",),
    shape=_shape,
    embed=_embed,
    layer=_layer,
    score_bias=_score_bias,
    after_attention=_after_attention,
    head=whole_head,
    kernel="eager",
)
