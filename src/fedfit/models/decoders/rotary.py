"""Decoders with rotary positions, grouped heads and a gated feed-forward part: one entry, and a row for each family.

LLaMA (Touvron et al. 2023, arXiv 2302.13971), Mistral (Jiang et al. 2023, arXiv 2310.06825: a window of tokens), Qwen2 (Yang
et al. 2024, arXiv 2407.10671: biases of query, key and value) and Qwen3 (Yang et al. 2025, arXiv 2505.09388: norms of query and
key in each head). A norm stands before each part of a layer: ``h + A(norm h)``, then ``h + M(norm h)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fedfit.errors import Fault
from fedfit.models.family import Decoder, Family, LayerKind
from fedfit.models.shape import Matrix, ModelShape, decoder_shape

if TYPE_CHECKING:
    from torch import Tensor

STEADY = ("default", "linear", "yarn", "llama3", "proportional")
"""Values of ``rope_type`` whose angles depend on a token's position alone. With ``dynamic`` and ``longrope`` transformers takes
them from the longest text of a batch as well, so that no state below the cut could be kept for a text."""


def rotary_shape(config: Any, labels: int) -> ModelShape:
    """The sizes by the configuration; Qwen2 has biases of query, key and value without saying so."""
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(config.intermediate_size)
    bias = bool(getattr(config, "attention_bias", False))
    into = bias or config.model_type == "qwen2"
    mlp_bias = bool(getattr(config, "mlp_bias", False))
    return decoder_shape(
        config,
        labels,
        projections=(
            Matrix("q_proj", heads * size, hidden, into),
            Matrix("k_proj", groups * size, hidden, into),
            Matrix("v_proj", groups * size, hidden, into),
        ),
        stages=(
            (Matrix("o_proj", hidden, heads * size, bias),),
            (Matrix("gate_proj", width, hidden, mlp_bias), Matrix("up_proj", width, hidden, mlp_bias)),
            (Matrix("down_proj", hidden, width, mlp_bias),),
        ),
    )


def alike(config: Any) -> tuple[LayerKind, ...]:
    """All layers see all tokens before."""
    return (LayerKind(),) * int(config.num_hidden_layers)


def all_sliding(config: Any) -> tuple[LayerKind, ...]:
    """All layers have the configuration's window, if it has one."""
    return (LayerKind(window=config.sliding_window),) * int(config.num_hidden_layers)


def by_type(config: Any) -> tuple[LayerKind, ...]:
    """``config.layer_types`` names the layers that have the window."""
    window = config.sliding_window
    return tuple(LayerKind(name, window if name == "sliding_attention" else None) for name in config.layer_types)


def embed(encoder: Any, ids: Tensor, positions: Tensor | None) -> Tensor:
    """The words alone: positions enter in the layers."""
    return cast("Tensor", encoder.embed_tokens(ids))


def final_norm(model: Any, states: Tensor) -> Tensor:
    """The norm above the last layer."""
    return cast("Tensor", model.model.norm(states))


def score(model: Any, pooled: Tensor) -> Tensor:
    """Logits of a classifier, of states ``(batch, 1, hidden)``."""
    return cast("Tensor", model.score(pooled)[:, 0])


def _rotary(encoder: Any, hidden: Tensor, positions: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", encoder.rotary_emb(hidden, positions))


def _after_attention(layer: Any, context: Tensor, residual: Tensor) -> Tensor:
    attended = residual + layer.self_attn.o_proj(context)
    return cast("Tensor", attended + layer.mlp(layer.post_attention_layernorm(attended)))


def unsteady_angles(config: Any) -> Fault | None:
    """The key of a rotary kind whose angles a text's neighbours change, or of one that is not known here."""
    given = getattr(config, "rope_parameters", None) or {}
    for place, found in [("rope_parameters", given), *((f"rope_parameters.{name}", each) for name, each in given.items())]:
        kind = found.get("rope_type", "default") if isinstance(found, dict) else "default"
        if kind in STEADY:
            continue
        known = f"give a model with one of {', '.join(STEADY)}"
        remedy = f"its angles are not computed here; {known}"
        if kind == "longrope":
            remedy = f"its angles depend on the longest text of a batch, and so would a text's states; {known}"
        if kind == "dynamic":
            remedy = (
                f"its angles depend on the longest text of a batch; up to {config.max_position_embeddings} tokens, the most "
                'that are read, they are those of "default": set that in the config.json of a local copy'
            )
        return Fault(f"{place}.rope_type", kind, remedy)
    return None


def rotary_family(name: str, kinds: Any = alike, **other: Any) -> Family:
    """A family of this file; ``other`` are fields in which it differs."""
    entry: dict[str, Any] = {
        "name": name,
        "encoder": "model",
        "layers": "layers",
        "attention": "self_attn",
        "targets": {
            "q_proj": "self_attn.q_proj",
            "k_proj": "self_attn.k_proj",
            "v_proj": "self_attn.v_proj",
            "o_proj": "self_attn.o_proj",
            "gate_proj": "mlp.gate_proj",
            "up_proj": "mlp.up_proj",
            "down_proj": "mlp.down_proj",
        },
        "projections": ("q_proj", "k_proj", "v_proj"),
        "head_modules": ("score",),
        "shape": rotary_shape,
        "embed": embed,
        "after_attention": _after_attention,
        "pooler": "norm",
        "pool": final_norm,
        "head": score,
        "reads": "last",
        "decoder": Decoder(kinds=kinds, norm="input_layernorm", rotary=_rotary),
        "unlike": unsteady_angles,
    }
    return Family(**entry | other)


LLAMA = rotary_family("llama")
MISTRAL = rotary_family("mistral", all_sliding)
QWEN2 = rotary_family("qwen2", by_type)
QWEN3 = rotary_family("qwen3", by_type)
