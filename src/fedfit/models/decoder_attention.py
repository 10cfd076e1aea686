"""The attention of a decoder's last layer, for the positions that the task reads.

Queries are made at these positions alone, keys and values of all tokens: rotary angles stand between a key's projection and its
score, so that the identity of ``last_layer.py`` does not hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfit.models.family import Family
from fedfit.models.layer_inputs import LayerInputs


def decoder_context(family: Family, layer: nn.Module, hidden: Tensor, inputs: LayerInputs, index: Tensor) -> Tensor:
    """The context at ``index`` ``(batch, positions)``, before the output projection: ``(batch, positions, width)``."""
    assert family.decoder is not None
    assert inputs.sight is not None
    attention: Any = layer.get_submodule(family.attention)
    normed = layer.get_submodule(family.decoder.norm)(hidden)
    queries, keys, values = (_by_head(x, attention.head_dim) for x in _project(family, layer, normed, index))
    if hasattr(attention, "q_norm"):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if inputs.rotary is not None:
        cosine, sine = inputs.rotary
        queries = rotate(queries, _rows(cosine, index), _rows(sine, index))
        keys = rotate(keys, cosine, sine)
    context = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=inputs.sight.of(index),
        dropout_p=_dropout(attention),
        scale=attention.scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return context.transpose(1, 2).flatten(2)


def rows_at(tokens: Tensor, index: Tensor) -> Tensor:
    """``(batch, tokens, n)`` at ``index`` ``(batch, positions)``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``(batch, heads, tokens, size)`` turned by the angles, ``(1 or batch, tokens, size)``; halves are the pairs."""
    half = heads.shape[-1] // 2
    turned = torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)
    return heads * cosine[:, None] + turned * sine[:, None]


def _project(family: Family, layer: nn.Module, normed: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    modules = [layer.get_submodule(name) for name in family.projection_modules]
    if len(modules) == 1:
        queries, keys, values = modules[0](normed).chunk(3, dim=-1)
        return rows_at(queries, index), keys, values
    query, key, value = modules
    return query(rows_at(normed, index)), key(normed), value(normed)


def _by_head(rows: Tensor, size: int) -> Tensor:
    return rows.view(*rows.shape[:2], -1, size).transpose(1, 2)


def _rows(angles: Tensor, index: Tensor) -> Tensor:
    return rows_at(angles.expand(len(index), -1, -1), index)


def _dropout(attention: Any) -> float:
    if not attention.training:
        return 0.0
    drop = getattr(attention, "attn_dropout", None)
    return float(attention.attention_dropout if drop is None else drop.p)
