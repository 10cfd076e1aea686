"""Names of adaptable matrices: each family's own, and those of other families for the same matrix. Starts without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

_SAME = (
    ("query", "q_proj", "c_attn"),
    ("key", "k_proj", "c_attn"),
    ("value", "v_proj", "c_attn"),
    ("attention_output", "o_proj", "attn_c_proj"),
    ("intermediate", "up_proj", "c_fc"),
    ("output", "down_proj", "mlp_c_proj"),
)
"""Matrices that do the same, by their names in an encoder, in a decoder, and in GPT-2, whose ``c_attn`` is three in one."""

NOT_ADAPTABLE = (
    *("embed_tokens", "embeddings", "word_embeddings", "wte", "wpe"),
    *("lm_head", "score", "classifier", "embed_out"),
)
"""Embeddings and heads; in many models the two are one tensor."""


def resolve(target: str, known: Collection[str]) -> tuple[str, ...]:
    """The matrices among ``known`` that ``target`` names: itself, or those that do the same; none when it names none."""
    if target in known:
        return (target,)
    return tuple(dict.fromkeys(name for same in _SAME if target in same for name in same if name in known))


def resolve_all(targets: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Every matrix that ``targets`` name, each once.

    Raises:
        ValueError: for a target that names none, or one that is given twice.
    """
    found = {target: resolve(target, known) for target in targets}
    if not all(found.values()) or len(found) != len(targets):
        raise ValueError(f"adapter.targets = {list(targets)}: name each of {', '.join(known)} at most once")
    return tuple(dict.fromkeys(name for names in found.values() for name in names))
