"""Gemma 3, its text model: Gemma Team 2025, arXiv 2503.19786.

Norms before and after attention and feed-forward part, norms of query and key in each head, and layers of two kinds: five with
a window to one without, each kind with a rotary base of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.errors import Fault
from fedfit.models.decoders.rotary import by_type, rotary_family, unsteady_angles
from fedfit.models.family import Decoder

if TYPE_CHECKING:
    from torch import Tensor


def _rotary(encoder: Any, hidden: Tensor, positions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", encoder.rotary_emb(hidden, positions, kind))


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attended = residual + layer.post_attention_layernorm(layer.self_attn.o_proj(context))
    mixed = layer.mlp(layer.pre_feedforward_layernorm(attended))
    return cast("Tensor", attended + layer.post_feedforward_layernorm(mixed))


def _unlike(config: Any) -> Fault | None:
    both = getattr(config, "use_bidirectional_attention", False)
    if not both:
        return unsteady_angles(config)
    remedy = "its tokens see those behind them, and a decoder's here see those before them alone; give a model without it"
    return Fault("use_bidirectional_attention", both, remedy)


GEMMA3_TEXT = rotary_family(
    "gemma3_text",
    after_attention=_after_attention,
    decoder=Decoder(kinds=by_type, norm="input_layernorm", rotary=_rotary),
    unlike=_unlike,
)
