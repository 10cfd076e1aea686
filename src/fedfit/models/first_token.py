"""Attention of the first token alone, without making keys and values of the other tokens.

The head of a classifier reads the last layer at its first token only, so of the scores one row a head is needed. With
``q`` that row's query, ``W_K, W_V`` the projections of one head, and ``h_t`` the layer's input at token ``t``::

    q · (W_K h_t + b_K) = (W_Kᵀ q) · h_t + const        the constant cancels in the softmax
    Σ_t p_t (W_V h_t + b_V) = W_V (Σ_t p_t h_t) + b_V Σ_t p_t

The left sides project every token, ``4·d²`` multiplications a token; the right sides project one vector a head and sample.
It is the same function, and so are its gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional


def first_token_attention(attention: Any, names: tuple[str, str, str], hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The attention context of the first token, before the output projection.

    Args:
        attention: a self-attention module of transformers.
        names: of its query, key and value projections.
        hidden: ``(batch, tokens, hidden)``.
        mask: ``(batch, 1, 1, tokens)``, true where there is a token, or ``None``.

    Returns:
        ``(batch, 1, hidden)``.
    """
    query, key, value = (getattr(attention, name) for name in names)
    size = attention.attention_head_size
    first = query(hidden[:, :1])
    heads = first.shape[-1] // size
    drop = attention.dropout.p if attention.training else 0.0
    if _drops_input(key) or _drops_input(value):  # LoRA's own dropout acts on every token's projection
        return _attend_plainly(first, key(hidden), value(hidden), size, mask, drop)
    key_weight, _ = effective_linear(key)
    value_weight, value_bias = effective_linear(value)
    rows = first.view(-1, heads, size).transpose(0, 1)  # (heads, batch, size)
    directions = torch.bmm(rows, key_weight.view(heads, size, -1)).transpose(0, 1)  # (batch, heads, hidden)
    scores = torch.bmm(directions, hidden.transpose(1, 2)) * size**-0.5  # (batch, heads, tokens)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
    shares = functional.dropout(scores.softmax(dim=-1), drop, training=drop > 0)
    mixed = torch.bmm(shares, hidden.to(shares.dtype)).transpose(0, 1)  # (heads, batch, hidden)
    context = torch.bmm(mixed, value_weight.view(heads, size, -1).transpose(1, 2)).transpose(0, 1)
    if value_bias is not None:
        context = context + shares.sum(dim=-1, keepdim=True) * value_bias.view(heads, size)
    return context.flatten(1)[:, None]


def effective_linear(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight ``(output, input)`` and bias of a linear map; with LoRA, ``W0 + scale · B @ A``, open to gradients."""
    if not isinstance(module, LoraLayer):
        return module.weight, module.bias  # type: ignore[return-value]
    base = module.get_base_layer()
    weight: Tensor = base.weight
    for name in module.active_adapters:
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        weight = torch.addmm(weight, b, a, alpha=module.scaling[name])
    return weight, base.bias


def _drops_input(module: nn.Module) -> bool:
    if not isinstance(module, LoraLayer):
        return False
    return any(isinstance(drop, nn.Dropout) and drop.training and drop.p > 0 for drop in module.lora_dropout.values())


def _attend_plainly(first: Tensor, keys: Tensor, values: Tensor, size: int, mask: Tensor | None, drop: float) -> Tensor:
    row, keys, values = (x.view(*x.shape[:2], -1, size).transpose(1, 2) for x in (first, keys, values))
    context = functional.scaled_dot_product_attention(row, keys, values, attn_mask=mask, dropout_p=drop)
    return context.transpose(1, 2).flatten(2)
