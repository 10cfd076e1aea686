"""ELECTRA: Clark et al., ICLR 2020, arXiv 2003.10555. BERT's layers over embeddings that may be narrower, RoBERTa's head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fedfit.models.encoders.bert import BERT
from fedfit.models.encoders.roberta import two_maps, whole_head
from fedfit.models.shape import Matrix, ModelShape, encoder_shape

if TYPE_CHECKING:
    from torch import Tensor


def _shape(config: Any, labels: int) -> ModelShape:
    narrower = config.embedding_size != config.hidden_size
    wider = (Matrix("embeddings_project", config.hidden_size, config.embedding_size),) if narrower else ()
    return encoder_shape(config, two_maps(config, labels), embedding=wider)


def _embed(encoder: Any, ids: Tensor, types: Tensor | None) -> Tensor:
    embedded = encoder.embeddings(input_ids=ids, token_type_ids=types)
    return cast("Tensor", encoder.embeddings_project(embedded) if hasattr(encoder, "embeddings_project") else embedded)


ELECTRA = replace(
    BERT,
    name="electra",
    encoder="electra",
    shape=_shape,
    embed=_embed,
    pooler="",
    pool=lambda model, states: states,
    head=whole_head,
)
