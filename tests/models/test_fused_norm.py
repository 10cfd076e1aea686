"""Norms and rotations in fewer passes, held to those of transformers: values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from fedfit.models.fused_norm import FusedNorm, fuse_norms, rotate

NORMS: list[Any] = [LlamaRMSNorm, Qwen3RMSNorm, Gemma3RMSNorm]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(module: Any, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the input."""
    x = x.clone().requires_grad_()
    found = module(x)
    found.backward(upstream.to(found.dtype))
    assert x.grad is not None
    return found.detach(), x.grad


def norm_of(kind: Any) -> Any:
    norm = kind(12, eps=1e-3)
    nn.init.normal_(norm.weight, mean=0.5)
    return norm.requires_grad_(False)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm_class", NORMS)
def test_a_norm_is_that_of_transformers(norm_class: Any, kind: torch.dtype) -> None:
    norm = norm_of(norm_class)
    x, upstream = drawn(2, 5, 12).to(kind), drawn(2, 5, 12, seed=1)
    for mine, its in zip(both(FusedNorm(norm), x, upstream), both(norm, x, upstream), strict=True):
        assert mine.dtype == its.dtype
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


def test_a_norm_of_heads_that_lie_crosswise_in_memory() -> None:
    norm, x = norm_of(LlamaRMSNorm), drawn(2, 5, 3, 12).transpose(1, 2)
    for mine, its in zip(both(FusedNorm(norm), x, drawn(2, 3, 5, 12)), both(norm, x, drawn(2, 3, 5, 12)), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


def test_frozen_norms_alone_are_replaced_and_keep_their_parameter() -> None:
    layer = nn.ModuleDict({"frozen": norm_of(LlamaRMSNorm), "trained": LlamaRMSNorm(12), "other": nn.LayerNorm(12)})
    weight, names = layer["frozen"].weight, list(layer.state_dict())
    fuse_norms(layer)
    assert [type(module) for module in layer.values()] == [FusedNorm, LlamaRMSNorm, nn.LayerNorm]
    assert layer["frozen"].weight is weight
    assert list(layer.state_dict()) == names


@pytest.mark.parametrize("rows", [1, 2])
def test_a_rotation_is_that_of_transformers(rows: int) -> None:
    angles = drawn(rows, 5, 8, seed=2).repeat(1, 1, 2)
    cosine, sine = angles.cos(), angles.sin()
    heads, upstream = drawn(2, 5, 3, 16).transpose(1, 2), drawn(2, 3, 5, 16, seed=3)
    found = both(lambda x: rotate(x, cosine, sine), heads, upstream)
    expected = both(lambda x: apply_rotary_pos_emb(x, x, cosine, sine)[0], heads, upstream)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6)
    assert rotate(heads.bfloat16(), cosine, sine).dtype == torch.float32  # as transformers does under autocast
