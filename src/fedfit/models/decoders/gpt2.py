"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

Positions are learned, and query, key and value are one matrix, ``c_attn``. Its linear maps are transformers' ``Conv1D``, whose
weight is ``(input, output)``; PEFT's own layer adapts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.models.decoders.rotary import alike, score
from fedfit.models.family import Decoder, Family
from fedfit.models.shape import Matrix, ModelShape, decoder_shape

if TYPE_CHECKING:
    from torch import Tensor


def _shape(config: Any, labels: int) -> ModelShape:
    hidden = int(config.hidden_size)
    width = int(config.n_inner or 4 * hidden)
    return decoder_shape(
        config,
        labels,
        projections=(Matrix("c_attn", 3 * hidden, hidden),),
        stages=(
            (Matrix("attn_c_proj", hidden, hidden),),
            (Matrix("c_fc", width, hidden),),
            (Matrix("mlp_c_proj", hidden, width),),
        ),
    )


def _embed(encoder: Any, ids: Tensor, positions: Tensor | None) -> Tensor:
    return cast("Tensor", encoder.drop(encoder.wte(ids) + encoder.wpe(positions)))


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attended = layer.attn.resid_dropout(layer.attn.c_proj(context)) + residual
    return cast("Tensor", attended + layer.mlp(layer.ln_2(attended)))


GPT2 = Family(
    name="gpt2",
    encoder="transformer",
    layers="h",
    attention="attn",
    targets={
        "c_attn": "attn.c_attn",
        "attn_c_proj": "attn.c_proj",
        "c_fc": "mlp.c_fc",
        "mlp_c_proj": "mlp.c_proj",
    },
    projections=("c_attn",),
    head_modules=("score",),
    shape=_shape,
    embed=_embed,
    after_attention=_after_attention,
    pooler="ln_f",
    pool=lambda model, states: model.transformer.ln_f(states),
    head=score,
    reads="last",
    decoder=Decoder(kinds=alike, norm="ln_1", rotary=lambda encoder, hidden, positions, kind: None),
)
