"""DistilBERT: Sanh et al., 2019, arXiv 1910.01108."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.models.family import Family
from fedfit.models.shape import Matrix, ModelShape, encoder_shape, square

if TYPE_CHECKING:
    from torch import Tensor


def _shape(config: Any, labels: int) -> ModelShape:
    head = square("pre_classifier", config.hidden_size), Matrix("classifier", labels, config.hidden_size)
    return encoder_shape(config, head, intermediate=config.hidden_dim)


def _embed(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    return cast("Tensor", encoder.embeddings(ids))


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attended = layer.sa_layer_norm(layer.attention.out_lin(context) + residual)
    return cast("Tensor", layer.output_layer_norm(layer.ffn(attended) + attended))


def _head(model: Any, states: Tensor) -> Tensor:
    return cast("Tensor", model.classifier(model.dropout(model.pre_classifier(states[:, 0]).relu())))


DISTILBERT = Family(
    name="distilbert",
    encoder="distilbert",
    layers="transformer.layer",
    attention="attention",
    targets={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
    },
    head_modules=("pre_classifier", "classifier"),
    shape=_shape,
    embed=_embed,
    after_attention=_after_attention,
    head=_head,
)
