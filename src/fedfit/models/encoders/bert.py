"""BERT: Devlin et al., NAACL 2019, arXiv 1810.04805. Its pooler lies between the last layer and the classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.errors import Fault
from fedfit.models.family import Family
from fedfit.models.shape import Matrix, ModelShape, encoder_shape, square

if TYPE_CHECKING:
    from torch import Tensor


def _shape(config: Any, labels: int) -> ModelShape:
    hidden = config.hidden_size
    return encoder_shape(config, (Matrix("classifier", labels, hidden),), pooler=(square("pooler", hidden),))


def _embed(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    return cast("Tensor", encoder.embeddings(input_ids=ids, token_type_ids=types))


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    return cast("Tensor", layer.feed_forward_chunk(layer.attention.output(context, residual)))


def _pool(model: Any, states: Tensor) -> Tensor:
    return cast("Tensor", model.bert.pooler(states))


def _head(model: Any, pooled: Tensor) -> Tensor:
    return cast("Tensor", model.classifier(model.dropout(pooled)))


def _unlike(config: Any) -> Fault | None:
    if not getattr(config, "is_decoder", False):
        return None
    return Fault(
        "is_decoder", True, "its tokens see those before them alone, and an encoder's see all; give a model without it"
    )


BERT = Family(
    name="bert",
    encoder="bert",
    layers="encoder.layer",
    attention="attention.self",
    targets={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    },
    head_modules=("classifier",),
    shape=_shape,
    embed=_embed,
    after_attention=_after_attention,
    pooler="pooler",
    pool=_pool,
    head=_head,
    unlike=_unlike,
)
