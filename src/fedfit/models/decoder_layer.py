"""A decoder's layer, whole or at the positions that the task reads.

Of a last layer, queries are made at these positions alone, keys and values of all tokens: rotary angles stand between a key's
projection and its score, so that the identity of ``last_layer.py`` does not hold.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fedfit.models.family import Family
from fedfit.models.fused_norm import rotate
from fedfit.models.layer_inputs import LayerInputs


def whole_layer(family: Family, layer: nn.Module, hidden: Tensor, inputs: LayerInputs) -> Tensor:
    """A layer over all tokens, of an encoder or a decoder: ``(batch, tokens, hidden)``."""
    if family.decoder is None:
        return family.layer(layer, hidden, inputs)
    return family.after_attention(layer, decoder_context(family, layer, hidden, inputs), hidden)


def decoder_context(
    family: Family, layer: nn.Module, hidden: Tensor, inputs: LayerInputs, index: Tensor | None = None
) -> Tensor:
    """The attention's context before the output projection, of all tokens or at ``index`` ``(batch, positions)``:
    ``(batch, tokens or positions, width)``."""
    assert family.decoder is not None
    assert inputs.sight is not None
    attention: Any = layer.get_submodule(family.attention)
    normed = layer.get_submodule(family.decoder.norm)(hidden)
    queries, keys, values = (_by_head(x, attention.head_dim) for x in _project(family, layer, normed, index))
    if hasattr(attention, "q_norm"):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if inputs.rotary is not None:
        cosine, sine = inputs.rotary
        queries = rotate(queries, _angles_at(cosine, index), _angles_at(sine, index))
        keys = rotate(keys, cosine, sine)
    mask = inputs.mask if index is None else inputs.sight.of(index)
    return _attend(queries, keys, values, mask, _dropout(attention), attention.scaling)


def rows_at(tokens: Tensor, index: Tensor) -> Tensor:
    """``(batch, tokens, n)`` at ``index`` ``(batch, positions)``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, drop: float, scale: float) -> Tensor:
    """By head ``(batch, heads, tokens, size)``; without a mask each token sees those before it."""
    groups = queries.shape[1] // keys.shape[1]
    if groups > 1 and mask is not None and queries.device.type == "cuda":  # its fused kernels take no groups with a mask
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
        groups = 1
    context = functional.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        dropout_p=drop,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=groups > 1,
    )
    return context.transpose(1, 2).flatten(2)


def _project(family: Family, layer: nn.Module, normed: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    modules = [layer.get_submodule(name) for name in family.projection_modules]
    if len(modules) == 1:
        queries, keys, values = modules[0](normed).chunk(3, dim=-1)
        return queries if index is None else rows_at(queries, index), keys, values
    query, key, value = modules
    return query(normed if index is None else rows_at(normed, index)), key(normed), value(normed)


def _by_head(rows: Tensor, size: int) -> Tensor:
    return rows.view(*rows.shape[:2], -1, size).transpose(1, 2)


def _angles_at(angles: Tensor, index: Tensor | None) -> Tensor:
    return angles if index is None else rows_at(angles.expand(len(index), -1, -1), index)


def _dropout(attention: Any) -> float:
    if not attention.training:
        return 0.0
    drop = getattr(attention, "attn_dropout", None)
    return float(attention.attention_dropout if drop is None else drop.p)
