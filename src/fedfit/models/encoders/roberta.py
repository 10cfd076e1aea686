"""RoBERTa: Liu et al., 2019, arXiv 1907.11692. BERT's layers, positions that start after the padding's, a head of two maps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fedfit.models.encoders.bert import BERT
from fedfit.models.shape import Matrix, ModelShape, encoder_shape, square

if TYPE_CHECKING:
    from torch import Tensor


def two_maps(config: Any, labels: int) -> tuple[Matrix, Matrix]:
    """A head that first maps the hidden state to its own size."""
    return square("dense", config.hidden_size), Matrix("out_proj", labels, config.hidden_size)


def whole_head(model: Any, states: Tensor) -> Tensor:
    """A head that takes states ``(batch, positions, hidden)`` and reads the first position itself."""
    return cast("Tensor", model.classifier(states))


def _shape(config: Any, labels: int) -> ModelShape:
    longest = config.max_position_embeddings - config.pad_token_id - 1
    return encoder_shape(config, two_maps(config, labels), longest=longest)


ROBERTA = replace(
    BERT, name="roberta", encoder="roberta", shape=_shape, pooler="", pool=lambda model, states: states, head=whole_head
)
