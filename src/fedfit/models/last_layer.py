"""The last layer at the positions that the task reads: queries, output projection and feed-forward part of these alone.

An encoder's classifier reads one position a row. Then keys and values of the other tokens need not be made either. With ``q``
that position's query, ``W_K, W_V`` the projections of one head, and ``h_t`` the layer's input at token ``t``::

    q · (W_K h_t + b_K) = (W_Kᵀ q) · h_t + const        the constant cancels in the softmax
    Σ_t p_t (W_V h_t + b_V) = W_V (Σ_t p_t h_t) + b_V Σ_t p_t

The left sides project every token, ``4·d²`` multiplications a token; the right sides project one vector a head and sample.
It is the same function, and so are its gradients. Where several positions of a row are read, keys and values are made as
usual: the right sides would have to be repeated for each of them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from fedfit.models.decoder_layer import decoder_context, rows_at
from fedfit.models.family import Family
from fedfit.models.layer_inputs import LayerInputs

Positions = Literal["first", "last"] | Tensor
"""The positions that a task reads: the first or the last token of each row, or indices ``(batch, positions)`` of tokens.
A row with fewer positions than others has -1 for those that it lacks, or, of an encoder, repeats one of its own."""


def last_layer(family: Family, layer: nn.Module, hidden: Tensor, inputs: LayerInputs, index: Tensor | None) -> Tensor:
    """The layer's output at ``index`` ``(batch, positions)``, or at the first token.

    Returns:
        ``(batch, positions, hidden)``; of a decoder ``(n, hidden)``, row by row, without the positions that are -1.
    """
    if family.decoder is None:
        context = _context(family, layer, hidden, _at(hidden, index), inputs.mask, _bias_at(inputs.bias, index))
        return family.after_attention(layer, context, _at(hidden, index))
    if index is None:
        index = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
    there, index = index >= 0, index.clamp(min=0)
    context = decoder_context(family, layer, hidden, inputs, index)
    return family.after_attention(layer, context[there], rows_at(hidden, index)[there])


def token_index(positions: Positions, lengths: Tensor) -> Tensor | None:
    """``(batch, positions)`` indices of tokens; ``None`` for the first."""
    if isinstance(positions, Tensor):
        return positions
    return None if positions == "first" else lengths[:, None] - 1


def _at(hidden: Tensor, index: Tensor | None) -> Tensor:
    """The rows of ``hidden`` at ``index``. Each use takes its own: the gradients then add up in the order of earlier runs."""
    if index is None:
        return hidden[:, :1]
    return rows_at(hidden, index)


def _bias_at(bias: Tensor | None, index: Tensor | None) -> Tensor | None:
    """The rows of the bias that belong to the queries: ``(1 or batch, heads, positions, tokens)``."""
    if bias is None or index is None:
        return None if bias is None else bias[:, :, :1]
    return bias[0][:, index].transpose(0, 1)


def _context(
    family: Family, layer: nn.Module, hidden: Tensor, rows: Tensor, mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The attention's context of ``rows``, before the output projection: ``(batch, positions, width)``."""
    attention: Any = layer.get_submodule(family.attention)
    query, key, value = (layer.get_submodule(module) for module in family.projection_modules)
    size = attention.attention_head_size
    drop = attention.dropout.p if attention.training else 0.0
    queries = query(rows)
    # LoRA's own dropout, and a gate between two pairs, act on every token's projection, so that these must be made.
    if rows.shape[1] > 1 or _by_token(key) or _by_token(value):
        return _attend_plainly(queries, key(hidden), value(hidden), size, _scores_mask(mask, bias), drop)
    return _attend_from_one(queries, key, value, hidden, size, mask, bias, drop)


def _attend_from_one(
    first: Tensor,
    key: nn.Module,
    value: nn.Module,
    hidden: Tensor,
    size: int,
    mask: Tensor | None,
    bias: Tensor | None,
    drop: float,
) -> Tensor:
    """The right sides above, for a query ``(batch, 1, width)``."""
    heads = first.shape[-1] // size
    key_weight, _ = effective_linear(key)
    value_weight, value_bias = effective_linear(value)
    rows = first.view(-1, heads, size).transpose(0, 1)  # (heads, batch, size)
    directions = torch.bmm(rows, key_weight.view(heads, size, -1)).transpose(0, 1)  # (batch, heads, hidden)
    scores = torch.bmm(directions, hidden.transpose(1, 2)) * size**-0.5  # (batch, heads, tokens)
    if bias is not None:
        scores = scores + bias[:, :, 0]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
    shares = functional.dropout(scores.softmax(dim=-1), drop, training=drop > 0)
    mixed = torch.bmm(shares, hidden.to(shares.dtype)).transpose(0, 1)  # (heads, batch, hidden)
    context = torch.bmm(mixed, value_weight.view(heads, size, -1).transpose(1, 2)).transpose(0, 1)
    if value_bias is not None:
        context = context + shares.sum(dim=-1, keepdim=True) * value_bias.view(heads, size)
    return context.flatten(1)[:, None]


def effective_linear(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight ``(output, input)`` and bias of a linear map; with LoRA, unless it is disabled, ``W0 + scale · B @ A``, open to
    gradients.
    """
    if not isinstance(module, LoraLayer):
        return module.weight, module.bias  # type: ignore[return-value]
    base = module.get_base_layer()
    weight: Tensor = base.weight
    for name in () if module.disable_adapters else module.active_adapters:
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        weight = torch.addmm(weight, b, a, alpha=module.scaling[name])
    return weight, base.bias


def _by_token(module: nn.Module) -> bool:
    """Whether the map is another one for each token."""
    if not isinstance(module, LoraLayer):
        return False
    if getattr(module, "beside", None) is not None:
        return True
    return any(isinstance(drop, nn.Dropout) and drop.training and drop.p > 0 for drop in module.lora_dropout.values())


def _scores_mask(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """Mask and bias in one, for the fused kernel."""
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


def _attend_plainly(queries: Tensor, keys: Tensor, values: Tensor, size: int, mask: Tensor | None, drop: float) -> Tensor:
    queries, keys, values = (x.view(*x.shape[:2], -1, size).transpose(1, 2) for x in (queries, keys, values))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(queries.dtype)  # the kernel wants one type; they differ in mixed precision
    context = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=drop)
    return context.transpose(1, 2).flatten(2)
